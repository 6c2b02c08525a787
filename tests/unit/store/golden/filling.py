# SPDX-License-Identifier: Apache-2.0
"""Fills a state file with something of everything, as an agent does it: by its verbs, amid its work."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from compute_agent import concurrency, failpoints
from compute_agent.manager import reconcile
from compute_agent.model import clock
from compute_agent.model.event import Event
from compute_agent.model.handshake import Kind, Phase
from compute_agent.model.instance import InstanceRecord
from compute_agent.model.operation import Operation
from compute_agent.store import handshakes, instances
from compute_agent.store.handshakes import HandshakeRecord
from tests.unit.house import House

COLD = [(Phase.CONFIRMED, Kind.COLD), (Phase.DISCARDING, Kind.COLD), (Phase.MOVING, Kind.REVERT)]
SPAWNING = "00000000-0000-4000-8000-0000000000aa"
PAUSING = "00000000-0000-4000-8000-000000000001"
WITH_PASSWORD = "00000000-0000-4000-8000-000000000002"
STATES = {
    "stopped": [("power_off", {"timeout": 0})],
    "paused": [("pause", {})],
    "suspended": [("suspend", {})],
    "rescued": [("rescue", {})],
    "soft_deleted": [("soft_delete", {})],
    "gone": [("destroy", {})],
}
"""How an instance gets into a state."""


def described(number: int, **more: Any) -> dict[str, Any]:
    """An instance with something in every field that a record keeps."""
    return {
        "uuid": f"00000000-0000-4000-8000-{number:012x}",
        "name": f"guest-{number}",
        "generation": number,
        "flavor": {"vcpus": 2, "memory_mb": 256, "root_gb": 1, "swap_mb": 16},
        "image": {"url": "file:///i/a", "checksum": f"sha256:{'0' * 64}"},
        "network_info": [
            {
                "id": f"10000000-0000-4000-8000-{number:012x}",
                "address": f"52:54:00:00:00:{number % 256:02x}",
                "bridge": "br0",
            }
        ],
        "metadata": {"owner": "a project", "umlaut": "äöü"},
        **more,
    }


def fill(house: House) -> House:
    """Do all of it, and stop in the middle of three operations, with others behind them."""
    for number in (1, 2):
        house.spawn(**described(number))
    for number, (state, verbs) in enumerate(STATES.items(), start=16):
        house.spawn(**described(number))
        uuid = described(number)["uuid"]
        for verb, arguments in verbs:
            ended = house.do(verb, instance_uuid=uuid, **arguments)
            assert ended.error is None, ended
        record = house.store.read(lambda tx, uuid=uuid: instances.find(tx, uuid))
        assert record is not None and record.state == state
    _go_wrong(house)
    _tell_the_host(house)
    _leave_in_the_middle(house)
    _leave_handshakes(house)
    return house


def _go_wrong(house: House) -> None:
    """What is refused, fails, is cancelled or is lost."""
    house.spawn(**described(32))
    lost = described(32)["uuid"]
    house.driver.hypervisor.stop(lost)
    house.driver.hypervisor.undefine(lost)
    assert house.events("instance.lifecycle.stopped")
    reconcile.compare(house.manager)
    assert house.record(lost).state == "error"
    again = house.ask("pause", instance_uuid=PAUSING, expires_at=clock.timestamp(clock.after(-1)))
    house.ask("pause", operation_id=again, instance_uuid=lost)  # another thing under the same id
    house.do("spawn", instance=described(1))
    house.do("cancel_operation", target="00000000-0000-4000-8000-0000000000ff")


def _tell_the_host(house: House) -> None:
    house.do("set_host_enabled", enabled=False, reason="maintenance on Friday")
    rules, members = [{"protocol": "tcp", "port_range_min": 22}], [{"ip": "192.0.2.1"}]
    house.do("refresh_security_group_rules", group_id="a-group", rules=rules)
    house.do("refresh_security_group_members", group_id="a-group", members=members)
    house.do("set_host_enabled", enabled=True)


def _leave_in_the_middle(house: House) -> None:
    reached: set[str] = set()
    points = ("spawn.start.before", "pause.begun", "set_admin_password.begun")
    failpoints.observe(lambda name: reached.add(name))
    failpoints.arm(";".join(f"{point}=hang" for point in points))
    password = {"new_pass": "the secret"}
    house.ask("spawn", instance=described(0xAA), admin_password="the secret", context={"request_id": "req-1"})
    house.ask("reboot", instance_uuid=SPAWNING, reboot_type="HARD")
    house.ask("pause", instance_uuid=PAUSING, timeout_s=600.0)
    house.ask("unpause", instance_uuid=PAUSING, expires_at=clock.timestamp(clock.after(100 * 365 * 86400)))
    house.ask("set_admin_password", instance_uuid=WITH_PASSWORD, **password)
    while not reached.issuperset(points):
        concurrency.sleep(0.005)
    failpoints.observe(None)


def _leave_handshakes(house: House) -> None:
    """One of each phase that a migration may be left in."""
    guest = house.record(PAUSING).instance
    for number, (phase, kind) in enumerate([*((one, Kind.PRECOPY) for one in Phase), *COLD]):
        record = HandshakeRecord(
            migration_id=f"20000000-0000-4000-8000-{number:012x}",
            instance_uuid=f"30000000-0000-4000-8000-{number:012x}",
            kind=kind,
            phase=phase,
            reverts=None if kind is not Kind.REVERT else "20000000-0000-4000-8000-000000000000",
            settled=phase in (Phase.KEPT, Phase.DROPPED),
            source="node-2",
            destination="node-3",
            instance=guest,
            request={"policy": {"post_copy": False}},
            data={"instance_uuid": PAUSING, "held": True},
        )
        house.store.write(lambda tx, record=record: handshakes.put(tx, record))


def dumped(house: House) -> str:
    """Return the statements that make such a file again."""

    def dump(tx: Any) -> str:
        (version,) = tx.row("PRAGMA user_version")
        lines = [line for line in tx._connection.iterdump() if line not in ("BEGIN TRANSACTION;", "COMMIT;")]
        text = "\n".join(["BEGIN;", *lines, f"PRAGMA user_version = {version};", "COMMIT;", ""])
        return re.sub("X'((?:7B|5B)[0-9A-F]*(?:7D|5D))'", _readable, text)

    return house.store.write(dump)


def _readable(blob: re.Match[str]) -> str:
    """Return a blob that is JSON as text."""
    try:
        text = bytes.fromhex(blob[1]).decode().replace("'", "''")
    except UnicodeDecodeError:
        return blob[0]
    return f"CAST('{text}' AS BLOB)"


def records_schema() -> dict[str, Any]:
    """Return what this release needs of the records in a file; further fields are none of its business."""
    _, components = msgspec.json.schema_components(
        (InstanceRecord, Operation, Event, HandshakeRecord), ref_template="#/$defs/{name}"
    )
    components["EventType"] = {"type": "string"}  # of any type an event is sent on
    for component in components.values():
        component.pop("additionalProperties", None)
    return {"$defs": components}
