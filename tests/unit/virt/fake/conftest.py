# SPDX-License-Identifier: Apache-2.0
"""A fake driver whose events are heard, and instances for it."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from compute_agent import steps
from compute_agent.conf import CONF
from compute_agent.model.block_device import BlockDevice, SourceType
from compute_agent.model.flavor import Flavor
from compute_agent.model.image import Image
from compute_agent.model.instance import Instance
from compute_agent.model.security_group import SecurityGroup
from compute_agent.model.vif import Vif
from compute_agent.virt.block_device import get_block_device_info
from compute_agent.virt.event import Event, HypervisorEvent, LifecycleEvent
from compute_agent.virt.fake import FakeDriver
from compute_agent.virt.fake.virtapi import MemoryVirtAPI

IMAGE = Image(url="https://images.example.org/one", id="image-1", properties={"hw_qemu_guest_agent": "yes"})
PLAIN_IMAGE = Image(url="https://images.example.org/two", id="image-2", size_bytes=2**20)
_numbers = itertools.count(1)


def make_instance(**fields: Any) -> Instance:
    """Return an instance with an image, an interface and a volume, unless told otherwise."""
    number = next(_numbers)
    uuid = f"{number:08x}-0000-4000-8000-000000000000"
    flavor = {"vcpus": 1, "memory_mb": 64, "root_gb": 1, **fields.pop("flavor", {})}
    defaults: dict[str, Any] = {
        "name": f"vm-{number}",
        "image": IMAGE,
        "network_info": [vif(number)],
        "block_device_mapping": [volume(f"vol-{number}")],
        "metadata": {"role": "test"},
        "security_groups": [SecurityGroup(id="web")],
    }
    return Instance(uuid=uuid, flavor=Flavor(**flavor), **{**defaults, **fields})


def vif(number: int) -> Vif:
    return Vif(
        id=f"port-{number}", address=f"52:54:00:00:{number // 256:02x}:{number % 256:02x}", bridge="br0"
    )


def connection(volume_id: str, **data: Any) -> dict[str, Any]:
    return {"driver_volume_type": "fake", "serial": volume_id, "data": {"size_gb": 1, **data}}


def volume(volume_id: str, **fields: Any) -> BlockDevice:
    return BlockDevice(
        source_type=SourceType.VOLUME, volume_id=volume_id, connection_info=connection(volume_id), **fields
    )


class Host:
    """A fake driver, its events by name, and a way to begin again as another process would."""

    def __init__(self, name: str = "node-1") -> None:
        self.name = name
        self.virtapi = MemoryVirtAPI()
        self.begin()

    def begin(self) -> None:
        """Make the driver, for a first or for another time."""
        self.heard: list[Event] = []
        self.driver = FakeDriver(self.virtapi)
        self.driver.register_event_listener(self.heard.append)
        self.driver.init_host(self.name)

    @property
    def world(self) -> Any:
        return self.driver.hypervisor.world

    @property
    def events(self) -> list[str]:
        """The names of the events since the last look."""
        named = [e.get_name() for e in self.heard if isinstance(e, LifecycleEvent | HypervisorEvent)]
        self.heard.clear()
        return named

    def spawn(self, instance: Instance | None = None, **fields: Any) -> Instance:
        """Spawn an instance, take it on record and forget the events."""
        instance = instance or make_instance(**fields)
        spawn(self.driver, instance)
        self.virtapi.put(instance)
        self.heard.clear()
        return instance

    def nothing_is_left(self) -> bool:
        """Whether the host is as it was, but for the image cache."""
        world = self.world
        tables = (world.domains, world.uuids, world.directories, world.plugged, world.filters, world.volumes)
        return not any(tables) and (world.memory_kb, world.vcpus, world.disk_bytes) == (0, 0, 0)


def spawn_arguments(instance: Instance) -> tuple[Any, ...]:
    info = get_block_device_info(instance, instance.block_device_mapping)
    return (None, instance, instance.image, [], None, {}, instance.network_info, info)


def spawn(driver: FakeDriver, instance: Instance) -> None:
    driver.spawn(*spawn_arguments(instance))


def working(verb: str, operation_id: str = "op-1", **fields: Any) -> Any:
    """Return the context of a running operation."""
    return steps.working(steps.Work(operation_id=operation_id, verb=verb, **fields))


@pytest.fixture
def configure() -> Iterator[Callable[..., None]]:
    """Set options of [fake]."""
    changed: list[str] = []

    def configure(**options: Any) -> None:
        for name, value in options.items():
            CONF.set_override(name, value, "fake")
            changed.append(name)

    yield configure
    for name in changed:
        CONF.clear_override(name, "fake")


@pytest.fixture
def host() -> Iterator[Host]:
    """A host without a ledger."""
    made = Host()
    yield made
    made.driver.cleanup_host(made.name)


@pytest.fixture
def kept(configure: Callable[..., None], tmp_path: Path) -> Iterator[Host]:
    """A host whose guests outlive the process."""
    configure(ledger=str(tmp_path / "ledger"), poll_interval=0)
    made = Host()
    yield made
    made.driver.cleanup_host(made.name)
