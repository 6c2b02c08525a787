# SPDX-License-Identifier: Apache-2.0
"""A snapshot that a crash interrupts is not repeated in silence: what it left goes, and that is told."""

from compute_agent import failpoints
from compute_agent.model.states import InstanceState
from tests.unit.house import House

URL = "https://store.example.org/copy"


def test_an_interrupted_snapshot_is_undone_and_ends_interrupted(house: House) -> None:
    uuid = house.spawn()
    before = house.driver.hypervisor.world.directories[uuid]
    failpoints.arm("snapshot.upload.before=hang")
    try:
        operation_id = house.ask("snapshot", instance_uuid=uuid, destination={"url": URL})
        (entry,) = house.manager.engine.entries
        while entry.work is None or entry.work.step != "upload":
            entry.ended.wait(0.01)
    finally:
        failpoints.arm("")
    assert house.driver.hypervisor.world.directories[uuid] != before
    house.crash()
    house.settle()
    told = house.question("get_operation", operation_id=operation_id)
    assert (told["state"], told["error"]["code"]) == ("failed", "Interrupted")
    assert "undone" in told["error"]["message"]
    assert house.driver.hypervisor.world.directories[uuid] == before
    assert house.driver.hypervisor.world.host.uploads == {}
    assert house.record(uuid).state is InstanceState.ACTIVE
