# SPDX-License-Identifier: Apache-2.0
"""What the concerns of the fake driver have in common: the hypervisor, the faults, and who meets them.

Every public member that a concern fills in is wrapped where its class is made, so that a fault
can be armed at any of them, and so that none answers while the hypervisor is away.
"""

import dataclasses
import functools
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from compute_agent import steps
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.steps import Step
from compute_agent.virt.driver import ComputeDriver
from compute_agent.virt.fake import peers
from compute_agent.virt.fake.described import DIRECT
from compute_agent.virt.fake.faults import Faults
from compute_agent.virt.fake.hypervisor import Hypervisor, Size
from compute_agent.virt.fake.ledger import Ledger
from compute_agent.virt.fake.outside import Outside
from compute_agent.virt.fake.relay import Relay
from compute_agent.virt.virtapi import VirtAPI

WITHOUT_HYPERVISOR = frozenset(
    {
        "init_host",
        "cleanup_host",
        "check_parameters",
        "default_device_names_for_instance",
        "default_root_device_name",
        "get_ancillary_files",
        "get_available_nodes",
        "get_device_name_for_instance",
        "get_host_cpu_stats",
        "get_host_ip_addr",
        "get_host_uptime",
        "get_migration_status",
        "get_volume_connector",
        "need_legacy_block_device_info",
        "set_bootable",
        "verify",
    }
)
"""Members that answer while the hypervisor is away."""


@dataclasses.dataclass(frozen=True)
class Part:
    """A step to be, of a member that needs no list of its own; the fields are those of a Step."""

    name: str
    do: Callable[[], object]
    done: Callable[[], bool] | None = None
    undo: Callable[[], object] | None = None


class FakeBase(ComputeDriver):
    """Base of the concerns.

    ``hypervisor`` and ``outside`` are for tests to look at and to make things happen; ``faults``
    says what goes wrong.
    """

    def __init__(self, virtapi: VirtAPI) -> None:
        super().__init__(virtapi)
        self.host = CONF.host_name
        self.faults = Faults(CONF.fake.faults)
        path = CONF.fake.ledger or peers.ledger_of(self.host)
        self.ledger = Ledger(path) if path else None
        self._relay = Relay(self.emit_event)
        self.hypervisor = Hypervisor(self._relay, Size.configured(), self.ledger)
        self.outside = Outside(self.hypervisor)
        if self.ledger is not None:
            self.outside.replay(self.ledger)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, member in list(vars(cls).items()):
            if callable(member) and is_member(name):
                setattr(cls, name, _breakable(member))

    def poll_outside(self) -> int:
        """Let happen what others have appended to the ledger; return how many lines that were."""
        return self.outside.poll(self.ledger) if self.ledger is not None else 0

    # --- for the concerns ----------------------------------------------------------------------------

    def _token(self) -> str:
        """Return what names the running work: the operation, or a direct call."""
        return steps.current().operation_id or f"{DIRECT}{uuid.uuid4().hex}"

    def _step(
        self,
        member: str,
        name: str,
        instance: Instance,
        do: Callable[[], object],
        *,
        done: Callable[[], bool] | None = None,
        undo: Callable[[], object] | None = None,
        detail: Callable[[], Mapping[str, Any]] | None = None,
    ) -> Step:
        """Return a step at which faults can be armed."""
        point = f"{member}.{name}"

        def act() -> None:
            self._meet(point, instance.uuid)
            do()

        def take_back() -> None:
            self._meet(f"{point}.undo", instance.uuid)
            assert undo is not None
            undo()

        given: dict[str, Any] = {} if done is None else {"done": done}
        return Step(name, act, undo=take_back if undo else None, detail=detail, **given)

    def _run(self, member: str, instance: Instance, *parts: Part) -> None:
        """Do the parts of a member, or leave nothing of them."""
        steps.run(
            [
                self._step(member, part.name, instance, part.do, done=part.done, undo=part.undo)
                for part in parts
            ]
        )

    def _meet(self, point: str, instance_uuid: str | None, needs_hypervisor: bool = True) -> None:
        if self.faults.armed:
            self.faults.hit(point, instance_uuid)
        if needs_hypervisor and self.hypervisor.away is not None:
            self._await_hypervisor()

    def _await_hypervisor(self) -> None:
        """A verb waits for the hypervisor, as long as it may; a question does not.

        :raises HypervisorUnavailable: where no operation runs
        """
        work = steps.current()
        while self.hypervisor.away is not None:
            if work.operation_id is None:
                raise errors.HypervisorUnavailable(self.hypervisor.away)
            with work.waiting(f"the hypervisor: {self.hypervisor.away}"):
                work.wait(self.hypervisor.back)


def is_member(name: str) -> bool:
    """Return whether a name is one of the contract's members that act or ask."""
    return hasattr(ComputeDriver, name) and not name.startswith("_") and not name.endswith("_steps")


def _breakable(member: Callable[..., Any]) -> Callable[..., Any]:
    name = member.__name__
    needs_hypervisor = name not in WITHOUT_HYPERVISOR

    @functools.wraps(member)
    def call(self: FakeBase, *args: Any, **kwargs: Any) -> Any:
        if self.faults.armed or self.hypervisor.away is not None:
            about = (a for a in (*args, *kwargs.values()) if isinstance(a, Instance))
            found = next(about, None)
            self._meet(name, found.uuid if found else None, needs_hypervisor)
        return member(self, *args, **kwargs)

    return call
