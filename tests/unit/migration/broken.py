# SPDX-License-Identifier: Apache-2.0
"""Protocols that each break one rule of the handshake, by which it is known that the explorer can fail.

Each names the kind of migration that it needs and what it makes happen.
"""

from collections.abc import Callable

from compute_agent.model.handshake import Action as AnyAction
from compute_agent.model.handshake import Do, Event, Fact, Input, Kind, Message, Phase, Protocol, State, Step

Mutation = tuple[type[Protocol], Kind, str]

MUTATIONS: list[Mutation] = []


def breaks(kind: Kind, message: str) -> Callable[[type[Protocol]], type[Protocol]]:
    """Declare what the protocol below makes happen."""

    def declare(protocol: type[Protocol]) -> type[Protocol]:
        MUTATIONS.append((protocol, kind, message))
        return protocol

    return declare


def without(step: Step, action: AnyAction) -> Step:
    """The same, but for one action."""
    return step[0], tuple(other for other in step[1] if other is not action)


@breaks(Kind.PRECOPY, "two owners")
class GivesInMemoryOnly(Protocol):
    def give(self) -> Step:
        return without(super().give(), Do.PERSIST)


@breaks(Kind.PRECOPY, "two owners")
class TellsBeforeItIsDurable(Protocol):
    def give(self) -> Step:
        return State(Phase.GIVEN), (Message.TAKE, Do.PERSIST)


@breaks(Kind.PRECOPY, "runs before it was told")
class RunsBeforeItsClaimIsDurable(Protocol):
    def prepared(self, state: State, event: Event) -> Step:
        if event is Message.TAKE:
            return State(Phase.OWNER), (Do.RESUME, Do.PERSIST, Do.CONFIRM)
        return super().prepared(state, event)


@breaks(Kind.POSTCOPY, "thrown away")
class SwitchesInMemoryOnly(Protocol):
    def moving(self, state: State, event: Event) -> Step:
        step = super().moving(state, event)
        return without(step, Do.PERSIST) if event is Input.FORCE else step


@breaks(Kind.POSTCOPY, "thrown away")
class SwitchesBeforeThatIsDurable(Protocol):
    def moving(self, state: State, event: Event) -> Step:
        if event is Input.FORCE:
            return State(Phase.SWITCHING), (Do.SWITCH, Do.PERSIST, Do.LOOK)
        return super().moving(state, event)


@breaks(Kind.POSTCOPY, "thrown away")
class KeepsWithoutAsking(Protocol):
    def switching(self, state: State, event: Event) -> Step:
        return self.keep() if event is Fact.OFF else super().switching(state, event)


@breaks(Kind.PRECOPY, "an old copy")
class TakesWhatArrivedForWhatIsNew(Protocol):
    def moving(self, state: State, event: Event) -> Step:
        if event is Fact.OFF:
            return state, (Message.QUERY,)
        if event in (Message.ARRIVED, Message.NOTHING):
            return self.give() if event is Message.ARRIVED else self.keep()
        return super().moving(state, event)


@breaks(Kind.PRECOPY, "no owner")
class LosesPatience(Protocol):
    def prepared(self, state: State, event: Event) -> Step:
        return self.drop() if event is Input.TICK else super().prepared(state, event)


@breaks(Kind.PRECOPY, "lost|no owner")
class BreaksItsPromise(Protocol):
    def prepared(self, state: State, event: Event) -> Step:
        if event is Message.PREPARE:
            return state, (Do.PREPARE,)
        if event in (Input.PREPARED, Input.FAILED):
            return self.drop() if event is Input.FAILED else (state, (Message.READY,))
        return super().prepared(state, event)


@breaks(Kind.PRECOPY, "runs where it does not belong")
class TakesUnknownForGone(Protocol):
    def moving(self, state: State, event: Event) -> Step:
        return self.give() if event is Fact.UNKNOWN else super().moving(state, event)


@breaks(Kind.PRECOPY, "lost|no owner|two|never ends")
class TakesBusyForKept(Protocol):
    def moving(self, state: State, event: Event) -> Step:
        return self.keep() if event is Fact.BUSY else super().moving(state, event)


@breaks(Kind.PRECOPY, "two owners")
class ClaimsBeforeItIsTold(Protocol):
    def prepared(self, state: State, event: Event) -> Step:
        if event in (Fact.HELD, Input.TICK):
            return State(Phase.OWNER), (Do.PERSIST, Do.RESUME, Do.CONFIRM)
        return super().prepared(state, event)


@breaks(Kind.PRECOPY, "no owner|lost|never ends")
class ForgetsThatItDropped(Protocol):
    def drop(self) -> Step:
        return State(Phase.NONE), (Do.PERSIST, Do.CLEAN, Message.DECLINED)


@breaks(Kind.PRECOPY, "never ends")
class TellsOnce(Protocol):
    def given(self, state: State, event: Event) -> Step:
        return (state, ()) if event in (Input.TICK, Input.RESTART) else super().given(state, event)


@breaks(Kind.PRECOPY, "never ends")
class CancelsOnce(Protocol):
    def kept(self, state: State, event: Event) -> Step:
        return (state, ()) if event in (Input.TICK, Input.RESTART) else super().kept(state, event)


@breaks(Kind.PRECOPY, "never ends")
class LeavesTheCopyHeld(Protocol):
    def prepared(self, state: State, event: Event) -> Step:
        return without(super().prepared(state, event), Do.RESUME)


@breaks(Kind.PRECOPY, "never ends")
class LeavesWhatArrived(Protocol):
    def drop(self) -> Step:
        return without(super().drop(), Do.CLEAN)


@breaks(Kind.COLD, "what may be gone back to")
class RemovesTheSourceFirst(Protocol):
    def moving(self, state: State, event: Event) -> Step:
        step = super().moving(state, event)
        return (step[0], (Do.DISCARD, *step[1])) if step[0].phase is Phase.KEEPING else step


@breaks(Kind.COLD, "made from what is not all there")
class TakesSetAsideForTransferred(Protocol):
    def moving(self, state: State, event: Event) -> Step:
        return self.give() if event is Fact.PART else super().moving(state, event)


@breaks(Kind.COLD, "nothing is left to go back to")
class RemovesTheSourceOnceItIsTaken(Protocol):
    def given(self, state: State, event: Event) -> Step:
        step = super().given(state, event)
        return (step[0], (Do.DISCARD, *step[1])) if event is Message.TAKEN else step


@breaks(Kind.COLD, "nothing is left to go back to")
class ConfirmsInMemoryOnly(Protocol):
    def owning(self, state: State, event: Event) -> Step:
        step = super().owning(state, event)
        return without(step, Do.PERSIST) if event is Input.CONFIRM else step


@breaks(Kind.COLD, "never ends")
class TellsOnceThatItIsForGood(Protocol):
    def confirmed(self, state: State, event: Event) -> Step:
        return (state, ()) if event in (Input.TICK, Input.RESTART) else super().confirmed(state, event)


@breaks(Kind.COLD, "never ends")
class AnswersOnceThatItIsGone(Protocol):
    def discarding(self, state: State, event: Event) -> Step:
        return (state, ()) if state.settled else super().discarding(state, event)


@breaks(Kind.REVERT, "two owners")
class GivesBackInMemoryOnly(Protocol):
    def give(self) -> Step:
        return without(super().give(), Do.PERSIST)


@breaks(Kind.REVERT, "two copies run|needed is ended|does not belong")
class GivesBackWhatRuns(Protocol):
    def moving(self, state: State, event: Event) -> Step:
        return self.give() if event is Fact.RUNS else super().moving(state, event)


@breaks(Kind.POSTCOPY, "never ends")
class LeavesWhatBrokeOff(Protocol):
    def given(self, state: State, event: Event) -> Step:
        return without(super().given(state, event), Do.MEND)


@breaks(Kind.POSTCOPY, "never ends")
class KeepsToItselfThatTheRestIsLost(Protocol):
    def given(self, state: State, event: Event) -> Step:
        return without(super().given(state, event), Message.LOST)


@breaks(Kind.POSTCOPY, "could be mended")
class GivesUpWhatCouldBeMended(Protocol):
    def given(self, state: State, event: Event) -> Step:
        return (state, (Message.LOST,)) if event is Fact.SPENT else super().given(state, event)
