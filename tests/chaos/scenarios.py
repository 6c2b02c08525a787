# SPDX-License-Identifier: Apache-2.0
"""How each verb is brought to be run on the fake driver: what comes before it, and its arguments.

`SCENARIOS` and `LEFT_OUT` together name every verb of the agent; a test sees to it.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import pathlib
import sqlite3
import uuid as uuids
from collections.abc import Callable
from typing import Any

from tests.rig.instance import describe

KEEPING = "keeping disks"
Arguments = dict[str, Any]
Step = tuple[str, Arguments]

OFF: Step = ("power_off", {"timeout": 0})
POINT = {"snapshot_id": "snap-1", "type": "qcow2", "new_file": "snap-1"}
B64 = base64.b64encode(b"/etc/motd").decode()


def vif(number: int) -> dict[str, Any]:
    return {"id": f"vif-{number}", "address": f"52:54:00:00:00:{number:02x}", "bridge": "br0"}


def volume(name: str) -> dict[str, Any]:
    return {"volume_id": name, "connection_info": connection(name)}


def connection(name: str) -> dict[str, Any]:
    return {"driver_volume_type": "iscsi", "data": {"volume_id": name, "size_gb": 2}}


def image() -> dict[str, Any]:
    """An image that is not in the cache yet."""
    found: dict[str, Any] = describe(pathlib.Path(f"/images/{uuids.uuid4()}.qcow2"))["image"]
    return found | {"properties": {"hw_qemu_guest_agent": "yes"}}


def guest(number: int = 1) -> dict[str, Any]:
    """A guest with one of everything, so that every step of its spawn has something to do."""
    disk = volume(f"vol-{number}")
    devices = [{"source_type": "volume", "size_gb": 1, "mountpoint": "/dev/vdb", **disk}]
    return describe(image=None) | {
        "flavor": {"vcpus": 1, "memory_mb": 16, "root_gb": 1},
        "image": image(),
        "network_info": [vif(number)],
        "block_device_mapping": devices,
    }


@dataclasses.dataclass(frozen=True)
class Scenario:
    """One way to run a verb.

    :param before: what the guest goes through first
    :param arguments: makes the verb's own, beside the instance's; given the guest's uuid
    :param about: ``instance``: a guest that is there; ``new``: one that is to be; ``host``: none;
        ``orphan``: a guest that the verb does not name as its instance
    :param variant: tells it from another one of the same verb
    :param arrange: brings the host to where it begins, by what no verb does; given the bench and the uuid
    :param follows: its effects come after its end: they are waited for
    """

    verb: str
    before: tuple[Step, ...] = ()
    arguments: Callable[[str], Arguments] = lambda uuid: {}
    about: str = "instance"
    variant: str = ""
    arrange: Callable[[Any, str], object] | None = None
    follows: bool = False

    @property
    def name(self) -> str:
        """What it is called in the table."""
        return f"{self.verb} {self.variant}".strip()

    @property
    def unrecorded(self) -> bool:
        """Whether something of the guest may be there, and on no record, on purpose."""
        return self.verb in ("forget", "destroy_orphan", "adopt") or self.variant == KEEPING


def _one(verb: str, *before: Step, about: str = "instance", variant: str = "", **arguments: Any) -> Scenario:
    return Scenario(verb, before, lambda uuid: dict(arguments), about, variant)


def _boot_host(bench: Any, uuid: str) -> None:
    """Let the host boot, without its guest: the agent wakes up in the boot after."""
    bench.agent.configure({"DEFAULT": {"on_host_boot": "confirm"}})
    bench.agent.stop()
    with (bench.agent.scratch / "ledger").open("a") as ledger:
        ledger.write(json.dumps({"guest": uuid, "power": "shutdown"}) + "\n")
    with contextlib.closing(sqlite3.connect(bench.agent.state_path / "state.db")) as state, state:
        state.execute("UPDATE meta SET value = 'the boot before' WHERE key = 'boot_id'")
    bench.agent.start()


_ALL = (
    Scenario("spawn", about="new"),
    Scenario(
        "spawn", about="new", variant="paused", arguments=lambda uuid: {"instance": {"start_paused": True}}
    ),
    Scenario("evacuate", about="new", arguments=lambda uuid: {"disks": "recreate", "fenced": True}),
    _one("destroy"),
    _one("destroy", ("suspend", {}), variant="suspended"),
    _one("destroy", variant=KEEPING, destroy_disks=False),
    Scenario("rebuild", arguments=lambda uuid: {"image": image()}),
    Scenario("rebuild", (OFF,), lambda uuid: {"image": image()}, variant="stopped"),
    _one("reboot", reboot_type="HARD"),
    _one("reboot", variant="soft", reboot_type="SOFT"),
    _one("power_on", OFF),
    _one("power_off", timeout=0),
    _one("power_off", variant="asking", timeout=5),
    _one("pause"),
    _one("unpause", ("pause", {})),
    _one("suspend"),
    _one("resume", ("suspend", {})),
    _one("soft_delete"),
    _one("restore", ("soft_delete", {})),
    Scenario("rescue", arguments=lambda uuid: {"rescue_image": image()}),
    Scenario("rescue", (OFF,), lambda uuid: {"rescue_image": image()}, variant="stopped"),
    _one("unrescue", ("rescue", {})),
    _one("update_instance", metadata={"role": "changed"}),
    Scenario("snapshot", arguments=lambda uuid: {"destination": {"url": f"file:///tmp/{uuids.uuid4()}"}}),
    _one("attach_volume", volume=volume("vol-2")),
    _one("detach_volume", volume_id="vol-1"),
    _one("swap_volume", old_volume_id="vol-1", volume=volume("vol-3")),
    _one("extend_volume", volume_id="vol-1", connection_info=connection("vol-1"), size_gb=2),
    _one("volume_snapshot_create", volume_id="vol-1", create_info=POINT),
    _one(
        "volume_snapshot_delete",
        ("volume_snapshot_create", {"volume_id": "vol-1", "create_info": POINT}),
        volume_id="vol-1",
        snapshot_id=POINT["snapshot_id"],
        delete_info={"volume_id": "vol-1"},
    ),
    _one("attach_interface", vif=vif(2)),
    _one("detach_interface", vif_id="vif-1"),
    _one("set_admin_password", new_pass="password"),
    _one("inject_file", b64_path=B64, b64_contents=B64),
    _one("change_instance_metadata", diff={"role": ["+", "changed"]}),
    _one("trigger_crash_dump"),
    _one("quiesce"),
    _one("unquiesce", ("quiesce", {})),
    _one("balloon_memory", memory_mb=8),
    _one("external_event", name="network-vif-plugged", tag="vif-1"),
    _one("refresh_instance_security_rules", security_groups=[{"id": "group-2", "rules": []}]),
    _one("forget"),
    _one("adopt", ("forget", {})),
    Scenario("destroy_orphan", (("forget", {}),), lambda uuid: {"orphan_id": uuid}, about="orphan"),
    Scenario(
        "confirm_instances",
        arguments=lambda uuid: {"instance_uuids": [uuid]},
        about="orphan",
        arrange=_boot_host,
        follows=True,
    ),
    Scenario("cancel_operation", arguments=lambda uuid: {"target": str(uuids.uuid4())}, about="host"),
    Scenario("cache_images", arguments=lambda uuid: {"images": [image()]}, about="host"),
    _one("manage_image_cache", images=[], about="host"),
    _one("refresh_security_group_rules", group_id="group-1", rules=[], about="host"),
    _one("refresh_security_group_members", group_id="group-1", members=[], about="host"),
    _one("refresh_provider_fw_rules", rules=[], about="host"),
    _one("set_host_enabled", enabled=True, about="host"),
    _one("host_power_action", action="startup", about="host"),
)
SCENARIOS = {scenario.name: scenario for scenario in _ALL}

TWO_HOSTS = "it takes two agents: tests/functional/migration kills each of them at every point"
NOT_OFFERED = "this release declares it and answers UnsupportedOperation: it has no effect"
LEFT_OUT = {
    "confirm_migration": NOT_OFFERED,
    "host_maintenance_mode": "it takes two agents: tests/functional/migration/test_drain.py kills it",
    "live_migration_abort": TWO_HOSTS,
    "live_migration_force_complete": TWO_HOSTS,
    "migrate": TWO_HOSTS,
    "receive_migration": TWO_HOSTS,
    "revert_migration": NOT_OFFERED,
}
"""Verbs that are in no scenario, and why."""

SHARED = ("spawn", "destroy", "power_off", "set_admin_password", "set_host_enabled", "cancel_operation")
"""For the points of journal, acknowledgement, outbox and publishing: of each kind of recovery and of each
lane one, one that makes an instance and one that takes it away."""
