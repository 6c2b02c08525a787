# SPDX-License-Identifier: Apache-2.0
"""Every interleaving of two agents, two hypervisors and a bad network, breadth first.

A message that was sent stays deliverable for ever, and need never be delivered: that is loss, duplication
and lateness in one. While the hosts are parted nothing is delivered, what is sent is lost, and a transfer
can't go on. An agent may crash between any two actions, and any action may fail. From every state that is
reached, the faults' ending has to lead to a good end, whether all old messages are lost or all of them come
again.
"""

import functools
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from compute_agent.model.handshake import (
    TO_DESTINATION,
    Action,
    Do,
    Event,
    Fact,
    Input,
    Kind,
    Message,
    Phase,
    Protocol,
    State,
)
from tests.unit.migration.hosts import ASIDE, OFF, Broken, Hosts, Hypervisors

BITS = {message: 1 << number for number, message in enumerate(Message)}
FOR = tuple(
    tuple((message, bit) for message, bit in BITS.items() if (message in TO_DESTINATION) is (side == 1))
    for side in (0, 1)
)
KEEPING = (Phase.KEEPING, Phase.KEPT)
GIVEN = (Phase.GIVEN, Phase.DISCARDING)
TAKING = (Phase.PREPARED, Phase.OWNER, Phase.CONFIRMED)
ROUNDS = 60


class End(NamedTuple):
    """An agent: what it thinks, what is durable, and what it still has to do of the step it is in."""

    now: State
    durable: State
    todo: tuple[Action | Fact, ...] = ()


class World(NamedTuple):
    """All there is. ``left``: how many crashes, partitions and faults of hypervisors may still come."""

    source: End
    destination: End
    hosts: Hosts = Hosts()
    sent: int = 0
    parted: bool = False
    left: tuple[int, int, int] = (0, 0, 0)


class Explorer:
    """Explores one protocol.

    :param protocol: the class itself, or one that breaks a rule
    :param held: False: what arrives runs at once, as it does without VIR_MIGRATE_PAUSED
    """

    def __init__(self, protocol: Protocol, held: bool = True) -> None:
        self.step = functools.cache(protocol.step)
        self.hypervisors = Hypervisors(protocol.kind, held)
        self.kind = protocol.kind
        self.postcopy = protocol.kind is Kind.POSTCOPY
        self.before = "aside" if protocol.kind is Kind.REVERT else "absent"
        self.good: set[tuple[World, bool]] = set()

    def explore(self, crashes: int, partitions: int, faults: int) -> int:
        """Return the number of states visited.

        :raises Broken: with the first state in which a guarantee does not hold
        """
        asked, none = State(Phase.ASKED), State(Phase.NONE)
        hosts = Hosts(destination=self.before)
        world = World(End(asked, asked), End(none, none), hosts, left=(crashes, partitions, faults))
        start = self.feed(world, 0, Input.BEGIN)
        seen, queue = {start}, deque([start])
        while queue:
            world = queue.popleft()
            for after in self.following(world):
                if after not in seen:
                    seen.add(after)
                    queue.append(after)
                    self.check(after)
                    self.must_end(after, again=False)
                    self.must_end(after, again=True)
        return len(seen)

    # --- one step ---------------------------------------------------------------------------------

    def following(self, world: World) -> Iterator[World]:
        """Everything that may happen next."""
        for side in (0, 1):
            if world[side].todo:  # type: ignore[union-attr]
                yield from self.perform(world, side)
            else:
                for event in self.events(world, side):
                    yield self.feed(world, side, event)
        moved = None if world.parted else self.hypervisors.progress(world.hosts)
        if moved is not None:
            yield world._replace(hosts=moved)
        yield from self.faults(world)

    def events(self, world: World, side: int) -> Iterator[Event]:
        if not world.parted:
            for message, bit in FOR[side]:
                if world.sent & bit:
                    yield message
        yield Input.TICK
        if side == 0:
            yield Input.ABORT
            yield Input.FORCE
        elif self.kind is Kind.COLD:
            yield Input.CONFIRM

    def faults(self, world: World) -> Iterator[World]:
        crashes, partitions, faults = world.left
        if crashes:
            fewer = world._replace(left=(crashes - 1, partitions, faults))
            yield self.crash(fewer, 0)
            yield self.crash(fewer, 1)
        if world.parted:
            yield world._replace(parted=False)
            for hosts in self.hypervisors.failures(world.hosts):
                yield world._replace(hosts=hosts)
        elif partitions:
            yield world._replace(parted=True, left=(crashes, partitions - 1, faults))
        if faults:
            yield from self.hypervisor_faults(world._replace(left=(crashes, partitions, faults - 1)))

    def hypervisor_faults(self, world: World) -> Iterator[World]:
        for hosts in self.hypervisors.failures(world.hosts):
            yield world._replace(hosts=hosts)
        for hosts in self.hypervisors.deaths(world.hosts):
            yield world._replace(hosts=hosts)
        for side in (0, 1):
            lost = self.hypervisors.power_loss(world.hosts, side)
            if lost is not None:
                yield self.crash(world._replace(hosts=lost), side)
            if world[side].todo:  # type: ignore[union-attr]
                yield self.forget(world, side)

    def forget(self, world: World, side: int) -> World:
        """The action fails: the rest is left, and what was not durable is not so."""
        durable = world[side].durable  # type: ignore[union-attr]
        return _put(world, side, End(durable, durable))

    def crash(self, world: World, side: int) -> World:
        return self.feed(self.forget(world, side), side, Input.RESTART)

    def feed(self, world: World, side: int, event: Event) -> World:
        """Give an event to an end."""
        end: End = world[side]  # type: ignore[assignment]
        now, actions = self.step(end.now, event)
        return _put(world, side, End(now, end.durable, actions + end.todo))

    def perform(self, world: World, side: int) -> Iterator[World]:
        """Do the first of the actions that an end has before it."""
        end: End = world[side]  # type: ignore[assignment]
        action = end.todo[0]
        rest = end._replace(todo=end.todo[1:])
        without = _put(world, side, rest)
        if isinstance(action, Fact):
            yield self.feed(without, side, action)
        elif action is Do.LOOK:
            seen = world.hosts.fact(side)
            for fact in {seen, Fact.UNKNOWN, Fact.OFF if seen is Fact.PART else seen}:  # given up
                yield _put(world, side, rest._replace(todo=(fact, *rest.todo)))
        elif action is Do.PREPARE:
            yield self.feed(without, side, Input.PREPARED)
            yield self.feed(without, side, Input.FAILED)
        elif action is Do.CONFIRM:
            yield self.feed(without, side, Input.DONE)
        elif action is Do.PERSIST:
            yield _put(world, side, rest._replace(durable=rest.now))
        elif isinstance(action, Do) and self.hypervisors.fails(world.hosts, side, action):
            yield self.forget(world, side)
        elif isinstance(action, Message):
            yield without if world.parted else without._replace(sent=world.sent | BITS[action])
        else:
            yield without._replace(hosts=self.hypervisors.act(world.hosts, side, action, world.parted))

    # --- the guarantees ---------------------------------------------------------------------------

    def check(self, world: World) -> None:
        """Raise Broken unless what must hold at every moment does."""
        hosts, source, destination = world.hosts, world.source.durable, world.destination.durable
        if hosts.source == hosts.destination == "runs":
            raise Broken(f"two copies run: {world}")
        given = source.phase in GIVEN and destination.phase in TAKING
        if source.owner and destination.owner:
            raise Broken(f"two owners: {world}")
        if not (source.owner or given):
            raise Broken(f"no owner: {world}")
        if hosts.source == "runs" and not source.owner:
            raise Broken(f"it runs where it does not belong: {world}")
        if hosts.ran and source.phase in KEEPING:
            raise Broken(f"what was written at the destination is lost: {world}")
        if hosts.destination == "runs" and not self.postcopy and not destination.owner:
            raise Broken(f"it runs before it was told to: {world}")
        if self.kind is Kind.COLD and hosts.source == "gone" and destination.phase is not Phase.CONFIRMED:
            raise Broken(f"nothing is left to go back to: {world}")
        if not (hosts.died or self.usable(hosts)):
            raise Broken(f"the guest is lost: {world}")

    def usable(self, hosts: Hosts) -> bool:
        if hosts.source in ("runs", "held") or hosts.destination in ("runs", "aside"):
            return True
        if hosts[:2] == ("spent", "broken"):
            return True
        aside = self.kind in OFF and hosts.source in ASIDE
        return aside or (hosts.destination == "held" and not hosts.stale)

    def ended(self, world: World) -> bool:
        """Whether both ends are done, one copy runs at the owner, and the other end holds nothing."""
        source, destination, hosts = world.source.durable, world.destination.durable, world.hosts
        if world.source.todo or world.destination.todo or hosts.busy:
            return False
        if not (source.settled and destination.settled):
            return False
        if source.phase is Phase.KEPT and destination.phase is Phase.DROPPED:
            here, nothing = hosts.source, hosts.destination == self.before
        else:
            kept = self.kind is Kind.COLD and source.phase is Phase.GIVEN
            here, nothing = hosts.destination, hosts.source == ("moved" if kept else "gone")
            nothing = nothing and (source.phase is Phase.GIVEN) == (destination.phase is Phase.OWNER)
        return nothing and (here == "runs" or hosts.died)

    def must_end(self, world: World, again: bool) -> None:
        """Raise Broken unless the faults' ending leads to a good end.

        :param again: all old messages come once more in every round, and who asked for the migration gives
            it up; else all of them are lost, and it is forced
        """
        world = world._replace(parted=False, left=(0, 0, 0), sent=world.sent if again else 0)
        path: list[tuple[World, bool]] = []
        for _ in range(ROUNDS):
            if (world, again) in self.good:
                break
            path.append((world, again))
            if self.ended(world):
                break
            world = self.calm(world, again)
            self.check(world)
        else:
            raise Broken(f"never ends: {path[0][0]} ... {world}")
        self.good.update(path)

    def calm(self, world: World, again: bool) -> World:
        """One round without faults: all is done, all that is said is heard, time goes on."""
        for side in (0, 1):
            world = self.finish(world, side, again)
        moved = self.hypervisors.progress(world.hosts)
        world = world if moved is None else world._replace(hosts=moved)
        heard, world = world.sent, world if again else world._replace(sent=0)
        for side in (0, 1):
            for message, bit in FOR[side]:
                if heard & bit:
                    world = self.finish(self.feed(world, side, message), side, again)
            world = self.finish(self.feed(world, side, Input.TICK), side, again)
        urged = Input.ABORT if again else Input.FORCE
        return self.finish(self.feed(world, 0, urged), 0, again)

    def finish(self, world: World, side: int, again: bool) -> World:
        while world[side].todo:  # type: ignore[union-attr]
            world = next(self.known(world, side, again))
        return world

    def known(self, world: World, side: int, again: bool) -> Iterator[World]:
        """What is done without faults: a look sees what there is, and preparing succeeds.

        An agent that was asked to give up goes on with nothing.
        """
        end: End = world[side]  # type: ignore[assignment]
        if end.todo[0] is not Do.LOOK:
            return self.perform(world, side)
        seen = world.hosts.fact(side)
        seen = Fact.OFF if again and seen is Fact.PART else seen
        return iter([_put(world, side, end._replace(todo=(seen, *end.todo[1:])))])


def _put(world: World, side: int, end: End) -> World:
    return world._replace(source=end) if side == 0 else world._replace(destination=end)
