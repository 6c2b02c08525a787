# SPDX-License-Identifier: Apache-2.0
"""The handshake of a migration: who has the guest, decided by two agents that may crash and lose each other.

Pure: :meth:`Protocol.step` takes the state of one end and an event, and returns the new state and what to
do, in order. Whoever drives it does the actions one after the other; ``PERSIST`` makes the new state
durable, and after a crash the last durable state goes on with ``Input.RESTART``. All actions and messages
can be repeated.

Invariants:

- The source decides, by one durable write: ``GIVEN`` or ``KEEPING``. It is the owner until ``GIVEN``; from
  then on the destination is, and it claims that (``OWNER``) as soon as it is told.
- What arrives at the destination is held; only ``TAKE`` lets it run. The one exception is post-copy, where
  the hypervisor runs it there in the instant in which it takes the source's copy for ever: before that may
  happen the source's record says so (``SWITCHING``).
- A destination that has promised (``PREPARED``) drops nothing until it hears ``CANCEL``.
- A copy that never ran is worth nothing to the data: in doubt it is dropped, and the source keeps. Where the
  destination's copy may have run (``SWITCHING``), the source asks before it decides.
- What is set aside at the source of a cold migration stays until the destination has written that the
  migration is for good (``CONFIRMED``); from then on it never goes back.

What the actions mean depends on the kind of the migration; docs/migration.md has the table.
"""

import enum
from typing import NamedTuple


class Kind(enum.StrEnum):
    """How the guest is moved."""

    PRECOPY = "precopy"
    """it runs until its memory has been copied, and arrives held (``VIR_MIGRATE_PAUSED``)"""
    POSTCOPY = "postcopy"
    """it is switched over first, when told to, and its memory follows; without that the copying never ends"""
    COLD = "cold"
    """it is off while its disks are brought over; they stay at the source until the migration is confirmed"""
    REVERT = "revert"
    """it goes back to where it was set aside, and is there what it was; nothing is brought over"""


OFF = frozenset({Kind.COLD, Kind.REVERT})
"""Kinds in which the guest is off and set aside before the other host has it."""


class Phase(enum.StrEnum):
    """What an end has on record; the operator sees these names."""

    ASKED = "asked"
    """source: the destination is asked to prepare; the guest is untouched"""
    MOVING = "moving"
    """source: the transfer may be under way"""
    SWITCHING = "switching"
    """source: the guest may already run at the destination (post-copy)"""
    KEEPING = "keeping"
    """source: decided, the guest stays; it is being let run again"""
    KEPT = "kept"
    """source: the guest goes on here"""
    GIVEN = "given"
    """source: decided, the destination is the owner; this copy never runs again. What is set aside stays"""
    DISCARDING = "discarding"
    """source: told that the cold migration is for good; what was set aside is removed"""
    NONE = "none"
    """destination: has not heard of this migration"""
    PREPARING = "preparing"
    """destination: makes what the guest needs; may still decline"""
    PREPARED = "prepared"
    """destination: promised to hold what arrives until it is told"""
    OWNER = "owner"
    """destination: told that the guest is its own"""
    CONFIRMED = "confirmed"
    """destination: decided, the cold migration is for good; the source is told until its copy is removed"""
    DROPPED = "dropped"
    """destination: nothing is kept here; a late request to prepare is refused"""


OWNING = frozenset(
    {
        Phase.ASKED,
        Phase.MOVING,
        Phase.SWITCHING,
        Phase.KEEPING,
        Phase.KEPT,
        Phase.OWNER,
        Phase.CONFIRMED,
    }
)
"""Phases in which an end claims the guest."""


class Message(enum.StrEnum):
    """What one end tells the other, always with the migration's id."""

    PREPARE = "prepare"
    TAKE = "take"
    CANCEL = "cancel"
    QUERY = "query"
    """source to destination: has anything arrived? Sent only when nothing moves and nothing is left here"""
    READY = "ready"
    ARRIVED = "arrived"
    NOTHING = "nothing_arrived"
    TAKEN = "taken"
    DECLINED = "declined"
    ASK = "ask"
    """destination to source: what was decided?"""
    DISCARD = "discard"
    """destination to source: the cold migration is for good, what is set aside can go"""
    DISCARDED = "discarded"
    LOST = "rest_is_lost"
    """source to destination: nothing more comes of a post-copy; one that broke off is not gone on with"""


TO_DESTINATION = frozenset(
    {Message.PREPARE, Message.TAKE, Message.CANCEL, Message.QUERY, Message.DISCARDED, Message.LOST}
)


class Fact(enum.StrEnum):
    """What the hypervisor shows here, the job included, read at one moment."""

    UNKNOWN = "unknown"
    BUSY = "busy"
    """a job works on the guest, or it is being received"""
    RUNS = "runs"
    HELD = "held"
    """complete and paused, no job"""
    SPENT = "spent"
    """source: a post-copy broke off; this copy can never run again, and has what the other one lacks"""
    MOVED = "moved"
    """source: off, and it is known that this is because all of it was transferred"""
    PART = "set_aside"
    """source, cold: set aside, and not all of it was transferred: that can be gone on with"""
    PARTIAL = "runs_in_part"
    """destination: a post-copy was switched over to it, and a part of its memory has not come yet"""
    OFF = "off"
    """source: off for another reason, or none is known. Destination: it arrived, and is off"""
    ABSENT = "absent"
    """destination: nothing (complete) has arrived"""


class Input(enum.StrEnum):
    """What happens to an end, besides messages and facts."""

    BEGIN = "begin"
    RESTART = "restart"
    TICK = "tick"
    ABORT = "abort"
    FORCE = "force"
    PREPARED = "is_ready"
    """destination: preparing succeeded"""
    FAILED = "failed"
    """destination: preparing failed"""
    CONFIRM = "is_for_good"
    """destination: a person or the time has decided that a cold migration is not reverted any more"""
    DONE = "done"
    """the actions before ``Do.CONFIRM`` have all succeeded"""


class Do(enum.StrEnum):
    """What the driver of the protocol is to do."""

    PERSIST = "persist"
    PREPARE = "make_ready"
    """answered by ``Input.PREPARED`` or ``Input.FAILED``"""
    START = "start_transfer"
    ABORT_JOB = "abort_job"
    FORCE_JOB = "force_job"
    """hold the guest, so that the copying ends"""
    SWITCH = "switch_over"
    """go to post-copy"""
    MEND = "mend_transfer"
    """go on with a post-copy that broke off"""
    RESUME = "resume_guest"
    """let the copy here run, if it did before the migration"""
    END = "end_guest"
    """source: the copy that was given away; destination: one that lacks memory which is lost"""
    CLEAN = "clean_up"
    DISCARD = "remove_aside"
    """source: remove what a cold migration has set aside"""
    LOOK = "look"
    """read the fact and give it to the protocol"""
    CONFIRM = "confirm"
    """give ``Input.DONE`` to the protocol"""


Action = Do | Message
Event = Input | Message | Fact


class State(NamedTuple):
    """One end of a migration.

    :ivar settled: nothing is left to do here, and the source has heard that of the destination too
    """

    phase: Phase
    settled: bool = False

    @property
    def owner(self) -> bool:
        """True if this end claims the guest."""
        return self.phase in OWNING

    @property
    def ended(self) -> bool:
        """True if there is nothing more to do here, except to answer."""
        return self.settled or self.phase is Phase.NONE


Step = tuple[State, tuple[Action, ...]]

WAKING = (Input.TICK, Input.RESTART)

REST: dict[Event, tuple[Action, ...]] = {
    **dict.fromkeys((Message.ASK, *WAKING), (Message.TAKE, Do.LOOK)),
    Fact.SPENT: (Do.MEND,),
    Fact.OFF: (Message.LOST,),
}
"""What is done besides at the source of a post-copy that was given away before all of it was over there."""


class Protocol:
    """Both ends of a migration of one kind. It has no state of its own."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self._steps = {
            Phase.ASKED: self.asked,
            Phase.MOVING: self.moving,
            Phase.SWITCHING: self.switching,
            Phase.KEEPING: self.keeping,
            Phase.KEPT: self.kept,
            Phase.GIVEN: self.given,
            Phase.DISCARDING: self.discarding,
            Phase.NONE: self.none,
            Phase.PREPARING: self.preparing,
            Phase.PREPARED: self.prepared,
            Phase.OWNER: self.owning,
            Phase.CONFIRMED: self.confirmed,
            Phase.DROPPED: self.dropped,
        }

    def step(self, state: State, event: Event) -> Step:
        """Return the next state and the actions, in order; an event that does not fit changes nothing."""
        return self._steps[state.phase](state, event)

    # --- source -----------------------------------------------------------------------------------

    def asked(self, state: State, event: Event) -> Step:
        """Nothing has happened to the guest: any doubt keeps it here."""
        if event is Input.BEGIN:
            return state, (Do.PERSIST, Message.PREPARE)
        if event is Message.READY:
            return State(Phase.MOVING), (Do.PERSIST, Do.START)
        if event in (Message.DECLINED, Input.ABORT):
            return self.keep()
        return state, (Message.PREPARE,) if event in WAKING else ()

    def moving(self, state: State, event: Event) -> Step:
        """The hypervisors move the guest by themselves; what they show here decides."""
        if event is Input.ABORT:
            return state, (Do.ABORT_JOB, Do.LOOK)
        if event is Input.FORCE and self.kind is Kind.POSTCOPY:
            return State(Phase.SWITCHING), (Do.PERSIST, Do.SWITCH, Do.LOOK)
        if event is Input.FORCE:
            return state, (Do.FORCE_JOB, Do.LOOK)
        if event in (*WAKING, Message.ASK):
            return state, (Do.LOOK,)
        if event in (Fact.MOVED, Fact.SPENT):
            return self.give()
        if event in (Fact.RUNS, Fact.HELD, Fact.OFF):
            return self.keep()
        if event is Fact.PART:  # gone on with, once the destination has opened the way anew
            return state, (Message.PREPARE,)
        if event is Message.READY and self.kind in OFF:
            return state, (Do.START,)
        return state, ()

    def switching(self, state: State, event: Event) -> Step:
        """As moving; but that the guest is off here no longer says that it did not go on there."""
        if event in (Input.FORCE, *WAKING):
            return state, (Do.SWITCH, Do.LOOK)
        if event is Fact.OFF:
            return state, (Message.QUERY,)
        if event is Message.ARRIVED:
            return self.give()
        if event is Message.NOTHING:
            return self.keep()
        return self.moving(state, event) if event is not Input.ABORT else (state, ())

    def keep(self) -> Step:
        """Decide that the guest stays."""
        return State(Phase.KEEPING), (Do.PERSIST, Do.RESUME, Do.CONFIRM)

    def give(self) -> Step:
        """Decide that the destination has it."""
        return State(Phase.GIVEN), (Do.PERSIST, Message.TAKE)

    def keeping(self, state: State, event: Event) -> Step:
        """Until the guest goes on here. Later nobody lets it run again on account of this migration."""
        if event is Input.DONE:
            return State(Phase.KEPT), (Do.PERSIST, Message.CANCEL)
        if event is Message.ASK:
            return state, (Message.CANCEL,)
        return state, (Do.RESUME, Do.CONFIRM) if event in WAKING else ()

    def kept(self, state: State, event: Event) -> Step:
        """Until the destination has confirmed that it dropped everything."""
        if event is Message.DECLINED and not state.settled:
            return State(Phase.KEPT, settled=True), (Do.PERSIST,)
        if event is Message.ASK or (event in WAKING and not state.settled):
            return state, (Message.CANCEL,)
        return state, ()

    def given(self, state: State, event: Event) -> Step:
        """Until the destination has confirmed; only then is removed what is left here."""
        if self.kind is Kind.POSTCOPY and event in REST and not state.settled:
            return state, REST[event]
        if event is Message.TAKEN and not state.settled:
            return state, (Do.END, Do.CLEAN, Do.CONFIRM)
        if event is Message.DISCARD and self.kind is Kind.COLD:  # it has it, whether or not that was heard
            return State(Phase.DISCARDING), (Do.PERSIST, Do.END, Do.CLEAN, Do.DISCARD, Do.CONFIRM)
        if event is Input.DONE and not state.settled:
            return State(Phase.GIVEN, settled=True), (Do.PERSIST,)
        if event is Message.ASK or (event in WAKING and not state.settled):
            return state, (Message.TAKE,)
        return state, ()

    def discarding(self, state: State, event: Event) -> Step:
        """Until nothing is left here. Whoever says again that it is for good hears that."""
        if state.settled:
            return state, (Message.DISCARDED,) if event is Message.DISCARD else ()
        if event is Input.DONE:
            return State(Phase.DISCARDING, settled=True), (Do.PERSIST, Message.DISCARDED)
        return state, (Do.END, Do.CLEAN, Do.DISCARD, Do.CONFIRM) if event in WAKING else ()

    # --- destination ------------------------------------------------------------------------------

    def none(self, state: State, event: Event) -> Step:
        """What is going to be made here is on record before it is made."""
        if event is Message.PREPARE:
            return State(Phase.PREPARING), (Do.PERSIST, Do.PREPARE)
        if event is Message.CANCEL:  # whatever is here, it did not come by this migration
            return State(Phase.DROPPED, settled=True), (Do.PERSIST, Message.DECLINED)
        return state, ()

    def preparing(self, state: State, event: Event) -> Step:
        """Nothing is promised yet."""
        if event is Input.PREPARED:
            return State(Phase.PREPARED), (Do.PERSIST, Message.READY)
        if event in (Input.FAILED, Message.CANCEL):
            return self.drop()
        return state, (Do.PREPARE,) if event in WAKING else ()

    def prepared(self, state: State, event: Event) -> Step:
        """Holds what arrives; in doubt it asks, and decides nothing."""
        if event is Message.TAKE:
            return State(Phase.OWNER), (Do.PERSIST, Do.RESUME, Do.CONFIRM)
        if event is Message.CANCEL:
            return self.drop()
        if event is Message.PREPARE:
            return state, (Do.PREPARE,) if self.kind in OFF else (Message.READY,)
        if event is Input.PREPARED:
            return state, (Do.PERSIST, Message.READY)
        if event is Message.QUERY:
            return state, (Do.LOOK,)
        if event in (Fact.HELD, Fact.RUNS, Fact.PARTIAL, Fact.OFF):
            return state, (Message.ARRIVED,)
        if event is Fact.ABSENT:
            return state, (Message.NOTHING,)
        return state, (Message.ASK,) if event in WAKING else ()

    def owning(self, state: State, event: Event) -> Step:
        """The guest is ours. Once it has been let run here, it is not started again."""
        if state.settled and event is Input.CONFIRM and self.kind is Kind.COLD:
            return State(Phase.CONFIRMED), (Do.PERSIST, Message.DISCARD)
        if state.settled:
            return state, (Message.TAKEN,) if event is Message.TAKE else ()
        if event is Input.DONE:
            return State(Phase.OWNER, settled=True), (Do.PERSIST, Message.TAKEN)
        if event is Message.LOST:
            return state, (Do.END, Do.RESUME, Do.CONFIRM)
        return state, (Do.RESUME, Do.CONFIRM) if event in WAKING else ()

    def confirmed(self, state: State, event: Event) -> Step:
        """Until the source has removed what it had set aside."""
        if event is Message.DISCARDED and not state.settled:
            return State(Phase.CONFIRMED, settled=True), (Do.PERSIST,)
        if event is Message.TAKE:
            return state, (Message.TAKEN,)
        return state, (Message.DISCARD,) if event in WAKING and not state.settled else ()

    def drop(self) -> Step:
        """Keep nothing, and remember that."""
        return State(Phase.DROPPED), (Do.PERSIST, Do.CLEAN, Do.CONFIRM)

    def dropped(self, state: State, event: Event) -> Step:
        """Nothing is kept. Once all is removed, whoever asks hears that, and nothing is touched again."""
        if state.settled:
            return state, (Message.DECLINED,) if event in (Message.PREPARE, Message.CANCEL) else ()
        if event is Input.DONE:
            return State(Phase.DROPPED, settled=True), (Do.PERSIST, Message.DECLINED)
        return state, (Do.CLEAN, Do.CONFIRM) if event in WAKING else ()
