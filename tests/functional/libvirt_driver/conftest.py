# SPDX-License-Identifier: Apache-2.0
"""The libvirt driver by itself, on real guests of a private libvirtd."""

import contextlib
import pathlib
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from compute_agent import concurrency, failpoints, steps
from compute_agent.conf import CONF
from compute_agent.model.flavor import Flavor
from compute_agent.model.image import Image
from compute_agent.model.instance import Instance
from compute_agent.model.states import PowerState
from compute_agent.steps import Step, Work
from compute_agent.virt.event import Event, HypervisorEvent, LifecycleEvent
from compute_agent.virt.libvirt.driver import LibvirtDriver
from tests.rig.bootsector import POLITE, Guestware
from tests.rig.guest import Guest
from tests.rig.hypervisor import Hypervisor

WAIT_S = 30.0


class Api:
    """The agent, as far as the driver may ask it."""

    def __init__(self) -> None:
        self.not_bootable: set[str] = set()

    def is_bootable(self, uuid: str) -> bool:
        return uuid not in self.not_bootable

    def set_bootable(self, uuid: str, is_bootable: bool) -> None:
        (self.not_bootable.discard if is_bootable else self.not_bootable.add)(uuid)

    def security_group_rules(self, group_id: str) -> list[Any]:
        return []

    def security_group_members(self, group_id: str) -> list[Any]:
        return []


class Watched:
    """A driver, and what it told."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self.hypervisor = hypervisor
        self.api = Api()
        self.driver: LibvirtDriver = LibvirtDriver(self.api)  # type: ignore[arg-type]
        self.heard: list[Event] = []
        self.driver.register_event_listener(self.heard.append)

    def instance(self, program: Guestware = POLITE, **fields: Any) -> Instance:
        """A new instance whose image runs `program`."""
        name = f"guest-{uuid.uuid4().hex[:12]}"
        image = self.hypervisor.images.raw(name, program)
        wanted: dict[str, Any] = {
            "uuid": str(uuid.uuid4()),
            "flavor": Flavor(vcpus=1, memory_mb=32),
            "image": Image(url=image.as_uri()),
        }
        return Instance(**(wanted | fields)).named()

    def spawn(self, instance: Instance) -> None:
        """Spawn it with what it describes itself."""
        self.driver.spawn(None, instance, instance.image, [], None, None, instance.network_info)

    def spawn_steps(self, instance: Instance) -> list[Step]:
        return self.driver.spawn_steps(None, instance, instance.image, [], None, None, instance.network_info)

    def spawned(self, program: Guestware = POLITE, **fields: Any) -> Instance:
        """An instance that runs; what was heard until now is forgotten."""
        instance = self.instance(program, **fields)
        self.spawn(instance)
        self.heard.clear()
        return instance

    def told(self, instance: Instance) -> list[str]:
        """The transitions that were told of an instance."""
        events = [event for event in self.heard if isinstance(event, LifecycleEvent)]
        return [event.get_name().lower() for event in events if event.uuid == instance.uuid]

    def last(self, instance: Instance) -> LifecycleEvent:
        events = [event for event in self.heard if isinstance(event, LifecycleEvent)]
        return [event for event in events if event.uuid == instance.uuid][-1]

    def comings_and_goings(self) -> list[bool]:
        """Whether libvirt was told to be there, in order."""
        return [event.connected for event in self.heard if isinstance(event, HypervisorEvent)]

    def wait(self, condition: Callable[[], object], what: str, timeout: float = WAIT_S) -> None:
        """Let greenthreads run until `condition` holds."""
        until = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < until, f"{what} did not come; heard: {self.heard}"
            concurrency.sleep(0.02)

    def outside(self, function: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        """Call what may block, such as a restart of libvirtd, and let greenthreads run meanwhile."""
        threads = concurrency.NativePool("test", 1)
        threads.call(function, *args, **kwargs)
        threads.close()

    def state(self, instance: Instance) -> PowerState:
        return self.driver.get_info(instance).state

    def directory(self, instance: Instance) -> pathlib.Path:
        return self.hypervisor.instances_path / instance.uuid

    def files(self, instance: Instance) -> set[str]:
        """The names of what is in its directory."""
        return {path.name for path in self.directory(instance).iterdir()}

    def guest(self, instance: Instance) -> Guest:
        """Look at its guest from outside."""
        return Guest(self.hypervisor, instance.uuid)

    def greets(self, instance: Instance, program: Guestware) -> None:
        """Wait until the guest's last greeting, of those that name a disk, is that of `program`."""

        def last() -> bool:
            said = self.driver.get_console_output(None, instance).decode().splitlines()
            return [line for line in said if "disk" in line][-1:] == [program.greeting]

        self.wait(last, program.greeting)

    def left_of(self, instance: Instance) -> list[str]:
        """What an onlooker finds of an instance: a domain, a QEMU, files."""
        found = []
        if instance.uuid in self.hypervisor.domains():
            found.append("domain")
        if self.hypervisor.qemu_pid(instance.uuid) is not None:
            found.append("qemu")
        found += [path.name for path in self.hypervisor.instances_path.glob(f"{instance.uuid}*")]
        return found

    @contextlib.contextmanager
    def operation(self, verb: str = "spawn", timeout: float = 180.0, **fields: Any) -> Iterator[Work]:
        """What runs inside is one operation of the agent."""
        wanted = {"operation_id": str(uuid.uuid4()), "deadline": time.monotonic() + timeout}
        with steps.working(Work(verb=verb, **(wanted | fields))) as work:
            yield work


@pytest.fixture
def settings(hypervisor: Hypervisor) -> Iterator[None]:
    """The configuration of an agent on the private hypervisor."""
    CONF([], project="compute-agent", default_config_files=[], default_config_dirs=[])
    CONF.set_override("instances_path", str(hypervisor.instances_path))
    CONF.set_override("connection_uri", hypervisor.uri, "libvirt")
    CONF.set_override("virt_type", "qemu", "libvirt")
    CONF.set_override("reconnect_interval", 0.2, "libvirt")
    CONF.set_override("allowed_sources", [f"file://{hypervisor.images_path}/"], "images")
    yield
    for name, group in (
        ("instances_path", None),
        ("connection_uri", "libvirt"),
        ("virt_type", "libvirt"),
        ("reconnect_interval", "libvirt"),
        ("allowed_sources", "images"),
    ):
        CONF.clear_override(name, group)


@pytest.fixture
def watched(fresh_hypervisor: Hypervisor, settings: None) -> Iterator[Watched]:
    """A driver that is connected, and its events."""
    made = Watched(fresh_hypervisor)
    made.driver.init_host("test-host")
    yield made
    failpoints.arm("")
    fresh_hypervisor.ensure()
    made.driver.cleanup_host("test-host")
