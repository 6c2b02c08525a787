# SPDX-License-Identifier: Apache-2.0
"""An instance that was resized stays so, whatever it goes through, until it is confirmed or reverted."""

import uuid
from collections.abc import Iterator

import msgspec
import pytest

from compute_agent.conf import CONF
from compute_agent.model.handshake import Kind, Phase
from compute_agent.model.states import InstanceState as S
from compute_agent.model.states import PowerState
from compute_agent.store import handshakes, instances
from compute_agent.store.handshakes import HandshakeRecord
from tests.unit.house import House


def hold(house: House, guest: str, source: str, destination: str) -> None:
    """Take on record that a cold migration of a guest can be confirmed or reverted."""
    record = HandshakeRecord(
        migration_id=str(uuid.uuid4()),
        instance_uuid=guest,
        kind=Kind.COLD,
        phase=Phase.OWNER if destination == "node-1" else Phase.GIVEN,
        settled=True,
        source=source,
        destination=destination,
        holds=True,
    )
    house.store.write(lambda tx: handshakes.put(tx, record))


def become(house: House, guest: str, state: S) -> None:
    changed = msgspec.structs.replace(house.record(guest), state=state)
    house.store.write(lambda tx: instances.put(tx, changed))


@pytest.fixture
def guest(house: House) -> str:
    """A running guest that came here by a cold migration."""
    made = house.spawn()
    become(house, made, S.RESIZED)
    hold(house, made, "node-2", "node-1")
    return made


@pytest.fixture
def resuming() -> Iterator[None]:
    CONF.set_override("on_host_boot", "resume")
    yield
    CONF.clear_override("on_host_boot")


def test_one_that_is_fit_again_is_resized_again(house: House, guest: str) -> None:
    become(house, guest, S.ERROR)
    assert house.do("reboot", instance_uuid=guest, reboot_type="HARD").error is None
    assert house.record(guest).state is S.RESIZED
    other = house.spawn()
    become(house, other, S.ERROR)
    assert house.do("reboot", instance_uuid=other, reboot_type="HARD").error is None
    assert house.record(other).state is S.ACTIVE


def test_one_that_ran_is_started_after_the_host_has_booted(house: House, guest: str, resuming: None) -> None:
    house.boot(guest)
    assert house.driver.get_all_info()[guest].state is PowerState.RUNNING
    assert house.record(guest).state is S.RESIZED


def test_what_is_set_aside_is_nobodys_orphan(house: House) -> None:
    gone = house.spawn()
    files = house.driver.hypervisor.world.directories[gone]
    assert house.do("destroy", instance_uuid=gone).error is None
    house.driver.hypervisor.effect("set_aside", gone, directories=files)
    assert [orphan["detail"] for orphan in house.question("list_orphans")["orphans"]] == [gone]
    hold(house, gone, "node-1", "node-2")
    assert house.question("list_orphans")["orphans"] == []
