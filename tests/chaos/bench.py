# SPDX-License-Identifier: Apache-2.0
"""An agent under test with a guest that is nobody's business, and what came of one verb."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from typing import Any

from tests.chaos.ground import HOST, Ground
from tests.chaos.scenarios import Scenario
from tests.rig.process import RigTimeoutError, wait_until
from tests.rig.receiver import ENDS, Payload, Receiver
from tests.rig.sender import RemoteError, Sender

BYSTANDER = 9
LIFECYCLE = "instance.lifecycle."
FILES_S = 5.0
"""How long an agent may take to close what it has opened."""


@dataclasses.dataclass
class Subject:
    """A guest (or the host) before its verb, and where to look from.

    ``seen`` is how many effects each had so far; ``files`` what the agent of ``pid`` has open.
    """

    uuid: str | None
    arguments: dict[str, Any]
    mark: int
    seen: dict[str, int]
    state: str | None
    left: list[str]
    record: str | None
    pid: int
    files: Counter[str]


@dataclasses.dataclass
class Came:
    """What came of a verb, as seen from outside."""

    types: list[str]
    end: Payload
    attempts: int
    effects: Counter[str]
    lifecycle: list[str]
    record: dict[str, Any] | None
    state: str | None
    left: list[str]
    harmed: list[str]
    disorder: list[str]

    @property
    def code(self) -> str:
        """The error's; empty if it succeeded."""
        return str((self.end["data"].get("error") or {}).get("code", ""))

    @property
    def recorded(self) -> str | None:
        """The state on record; None if it is on none."""
        return None if self.record is None else str(self.record["state"])


class Bench(contextlib.AbstractContextManager["Bench"]):
    """One agent with its plain receiver and sender. Many cases, one after the other."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.agent = ground.agent()
        self.receiver = Receiver(ground.broker.transport_url, host=self.agent.host)
        self.to = Sender(ground.broker.transport_url, self.agent.host)
        self.world = ground.world(self.agent)
        self._awake = 0
        self._sockets = 0
        self._looked_to = 0
        self._last_seq: int | None = None
        self._ends: Counter[str] = Counter()

    def __enter__(self) -> Bench:
        try:
            self.receiver.start()
            self.agent.start()
            self.bystander = self.spawn(BYSTANDER)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self.to.close()
        self.agent.close()
        self.receiver.close()
        self.ground.close(self.world)

    # --- doing -----------------------------------------------------------------------------------------

    def done(self, verb: str, **arguments: Any) -> None:
        """Have a verb done, without any trouble."""
        since = self.receiver.mark()
        end = self.end_of(self.to.cast(verb, **arguments), since)
        assert end["type"] == "operation.succeeded", f"{verb}: {end['data'].get('error')}"

    def end_of(self, operation: str, since: int) -> Payload:
        """Wait for an operation's end, of the events since a mark."""
        return self.receiver.wait_for(
            lambda event: event["type"] in ENDS,
            since=since,
            operation_id=operation,
            timeout=self.ground.enough_s,
        )

    def has_ended(self, operation: str, since: int) -> bool:
        """Return whether an operation's end has been told since a mark."""
        fresh = self.receiver.events[since:]
        return any(event.get("operation_id") == operation and event["type"] in ENDS for event in fresh)

    def spawn(self, number: int = 1) -> str:
        """Spawn a guest; return its uuid."""
        instance = self.ground.guest(number)
        self.done("spawn", instance=instance)
        return str(instance["uuid"])

    def prepare(self, scenario: Scenario, *, idle: bool = True) -> Subject:
        """Bring a guest to where a scenario begins.

        :param idle: wait until the agent passes no points any more
        """
        uuid, arguments = self._subject(scenario)
        if idle:
            self.agent.settle()
        self.world.read()
        found = self.record_of(uuid)
        return Subject(
            uuid,
            arguments,
            self.receiver.mark(),
            {one: len(self.world.effects[one]) for one in (uuid or "", HOST, self.bystander)},
            self.world.state_of(uuid or ""),
            self.world.left_of(uuid or ""),
            None if found is None else str(found["state"]),
            self.agent.pid,
            self._open_files(),
        )

    def _open_files(self) -> Counter[str]:
        """Return what the agent keeps open. It may just have hung up on a broker that refused an event."""
        found = self.agent.kinds_of_files()
        self._sockets = found["socket"] = max(self._sockets, found["socket"])
        return found

    def _subject(self, scenario: Scenario) -> tuple[str | None, dict[str, Any]]:
        if scenario.about == "host":
            return None, scenario.arguments("")
        if scenario.about == "new":
            self._wake()
            instance = self.ground.guest()
            arguments = scenario.arguments(instance["uuid"])
            return instance["uuid"], arguments | {"instance": instance | arguments.get("instance", {})}
        uuid = self.spawn()
        for verb, given in scenario.before:
            self.done(verb, instance_uuid=uuid, **given)
        if scenario.arrange is not None:
            scenario.arrange(self, uuid)
        named = {} if scenario.about == "orphan" else {"instance_uuid": uuid}
        return uuid, scenario.arguments(uuid) | named

    def _wake(self) -> None:
        """Let a fresh agent open what it keeps open (pools, connections): no verb has left that behind."""
        if self._awake != self.agent.pid:
            self.done("destroy", instance_uuid=self.spawn())
            self._awake = self.agent.pid

    # --- looking ---------------------------------------------------------------------------------------

    def look(self, subject: Subject, operation: str, end: Payload) -> Came:
        """Look at what came of a verb."""
        self.world.read()
        uuid = subject.uuid or ""
        disorder, fresh = self._fresh(subject.mark)
        told = [event for event in fresh if event.get("instance_uuid") == uuid]
        effects = Counter(self.world.effects[uuid][subject.seen[uuid] :] if uuid else ())
        effects.update(self.world.effects[HOST][subject.seen[HOST] :])
        return Came(
            types=[event["type"] for event in fresh if event.get("operation_id") == operation],
            end=end,
            attempts=self.to.call("get_operation", operation_id=operation)["attempts"],
            effects=effects,
            lifecycle=[
                event["type"].removeprefix(LIFECYCLE) for event in told if event["type"].startswith(LIFECYCLE)
            ],
            record=self.record_of(subject.uuid),
            state=self.world.state_of(uuid),
            left=self.world.left_of(uuid),
            harmed=self._harmed(subject, fresh),
            disorder=disorder,
        )

    def _fresh(self, mark: int) -> tuple[list[str], list[Payload]]:
        """Return what is wrong with the order of the events since the last look, and those after ``mark``.

        A receiver drops what it has had, by ``seq``. What it then sees has to go up by one each, and an
        operation ends once, however long ago it was.
        """
        wrong, fresh = [], []
        arrived = list(enumerate(self.receiver.events))[self._looked_to :]
        self._looked_to += len(arrived)
        for place, event in arrived:
            seq = event.get("seq")
            if seq is None or (self._last_seq is not None and seq <= self._last_seq):
                continue
            if self._last_seq is not None and seq != self._last_seq + 1:
                wrong.append(f"event {seq} came after {self._last_seq}")
            self._last_seq = seq
            fresh += [event] if place >= mark else []
            if event["type"] in ENDS:
                self._ends[event["operation_id"]] += 1
        wrong += [f"operation {one} ended {number} times" for one, number in self._ends.items() if number > 1]
        return wrong, fresh

    def _harmed(self, subject: Subject, fresh: list[Payload]) -> list[str]:
        """Return what happened to the bystander, and what was told of it."""
        told = [event["type"] for event in fresh if event.get("instance_uuid") == self.bystander]
        return [*self.world.effects[self.bystander][subject.seen[self.bystander] :], *told]

    def record_of(self, uuid: str | None) -> dict[str, Any] | None:
        """Return what the agent has on record of a guest; None if nothing."""
        if uuid is None:
            return None
        try:
            record: dict[str, Any] = self.to.call("get_instance", instance_uuid=uuid)
        except RemoteError as error:
            if error.code != "InstanceNotFound":
                raise
            return None
        return None if record["state"] == "gone" else record

    # --- clearing --------------------------------------------------------------------------------------

    def clear(self, subject: Subject, scenario: Scenario) -> list[str]:
        """Destroy what is left; return what is there even then, file descriptors of the agent too."""
        if subject.uuid is not None:
            if scenario.unrecorded and self.record_of(subject.uuid) is None:
                self._clear_unrecorded(subject.uuid)
            self.done("destroy", instance_uuid=subject.uuid)
        self.world.read()
        strays = sorted(self.world.guests() - {self.bystander})
        left = [f"{uuid}: {', '.join(self.world.left_of(uuid))}" for uuid in strays]
        return left + ([f"open: {self._more_files(subject)}"] if not self._files_closed(subject) else [])

    def _clear_unrecorded(self, uuid: str) -> None:
        """Remove what a verb has left on purpose, and on no record."""
        for orphan in self.to.call("list_orphans")["orphans"]:
            if uuid in orphan["id"]:
                self.done("destroy_orphan", orphan_id=orphan["id"])

    def _more_files(self, subject: Subject) -> dict[str, int]:
        if self.agent.pid != subject.pid:
            return {}  # another process: it had nothing open before
        return dict(self.agent.kinds_of_files() - (subject.files | Counter(self.ground.of_threads)))

    def _files_closed(self, subject: Subject) -> bool:
        try:
            wait_until(lambda: not self._more_files(subject), FILES_S, "as few open files as before")
        except RigTimeoutError:
            return False
        return True
