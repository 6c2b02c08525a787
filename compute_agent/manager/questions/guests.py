# SPDX-License-Identifier: Apache-2.0
"""Questions about guests, answered by the hypervisor."""

import base64
from collections.abc import Callable
from typing import Any

import msgspec

from compute_agent.manager.manager import Manager, request_context
from compute_agent.model import errors, questions
from compute_agent.model.instance import Instance
from compute_agent.store import handshakes, instances


def _instance(manager: Manager, uuid: str) -> Instance:
    return manager.store.read(lambda tx: instances.get(tx, uuid)).instance


def get_info(manager: Manager, asked: questions.AboutInstances) -> dict[str, Any]:
    """Power state, memory (KiB) and processor time (ns): of one instance, of many, or of all."""
    if asked.instance_uuid is not None:
        info = manager.driver.get_info(_instance(manager, asked.instance_uuid))
        return {"info": msgspec.to_builtins(info)}
    seen = manager.driver.get_all_info()
    records = {record.uuid for record in manager.store.read(instances.every)}
    wanted = records if asked.instance_uuids is None else records & set(asked.instance_uuids)
    return {"info": {uuid: msgspec.to_builtins(info) for uuid, info in seen.items() if uuid in wanted}}


def get_console_output(manager: Manager, asked: questions.GetConsoleOutput) -> dict[str, Any]:
    """The end of what the guest wrote to its serial console."""
    output = manager.driver.get_console_output(request_context(), _instance(manager, asked.instance_uuid))
    raw = output if isinstance(output, bytes) else str(output).encode()
    tail = raw[-asked.length :]
    return {
        "output": tail.decode("utf-8", "replace"),
        "base64": base64.b64encode(tail).decode() if not tail.isascii() else None,
        "bytes": len(raw),
    }


def _console(member: str) -> Callable[[Manager, questions.AboutInstance], dict[str, Any]]:
    def answer(manager: Manager, asked: questions.AboutInstance) -> dict[str, Any]:
        console = getattr(manager.driver, member)(request_context(), _instance(manager, asked.instance_uuid))
        return {"console": msgspec.to_builtins(console)}

    answer.__doc__ = "Where a guest's console is served."
    return answer


def _about(member: str, key: str) -> Callable[[Manager, questions.AboutInstance], dict[str, Any]]:
    def answer(manager: Manager, asked: questions.AboutInstance) -> dict[str, Any]:
        found = getattr(manager.driver, member)(_instance(manager, asked.instance_uuid))
        return {key: msgspec.json.decode(found) if isinstance(found, str) else msgspec.to_builtins(found)}

    answer.__doc__ = f"What the driver's {member} tells of a guest."
    return answer


def get_volume_connector(manager: Manager, asked: questions.Nothing) -> dict[str, Any]:
    """What a storage service needs to know of this host."""
    nobody: Any = None
    return {"connector": dict(manager.driver.get_volume_connector(nobody))}


def get_all_bw_counters(manager: Manager, asked: questions.Nothing) -> dict[str, Any]:
    """Bytes received and sent by each interface."""
    found = [record.instance for record in manager.store.read(instances.every)]
    return {"counters": msgspec.to_builtins(manager.driver.get_all_bw_counters(found))}


def get_all_volume_usage(manager: Manager, asked: questions.Nothing) -> dict[str, Any]:
    """Requests and bytes of each volume."""
    found = [
        {"instance": record.instance, "instance_bdms": record.instance.block_device_mapping}
        for record in manager.store.read(instances.every)
    ]
    return {"usage": msgspec.to_builtins(manager.driver.get_all_volume_usage(request_context(), found))}


def get_per_instance_usage(manager: Manager, asked: questions.Nothing) -> dict[str, Any]:
    """Memory that each guest uses (MiB)."""
    return {"usage": msgspec.to_builtins(manager.driver.get_per_instance_usage())}


def block_stats(manager: Manager, asked: questions.BlockStats) -> dict[str, Any]:
    """``[rd_req, rd_bytes, wr_req, wr_bytes, errs]`` of a disk."""
    return {"stats": list(manager.driver.block_stats(_instance(manager, asked.instance_uuid), asked.disk_id))}


def interface_stats(manager: Manager, asked: questions.InterfaceStats) -> dict[str, Any]:
    """An interface's ``[rx_bytes, rx_packets, rx_errs, rx_drop, tx_bytes, ...]``."""
    instance = _instance(manager, asked.instance_uuid)
    stats: Any = manager.driver.interface_stats(instance.name, asked.iface_id)
    if stats is None:
        raise errors.InvalidArguments(f"no interface {asked.iface_id}")
    return {"stats": list(stats)}


def get_migration_status(manager: Manager, asked: questions.AboutInstance) -> dict[str, Any]:
    """How far a live migration is, and what the handshake of the last migration has on record here."""
    uuid = asked.instance_uuid
    status = manager.driver.get_migration_status(_instance(manager, uuid))
    record = manager.store.read(lambda tx: handshakes.of_instance(tx, uuid))
    names = ("migration_id", "kind", "phase", "settled", "source", "destination", "error", "updated_at")
    about = None if record is None else {name: msgspec.to_builtins(getattr(record, name)) for name in names}
    return {"migration": msgspec.to_builtins(status), "handshake": about}


ANSWERS = {
    "get_info": get_info,
    "get_console_output": get_console_output,
    "get_vnc_console": _console("get_vnc_console"),
    "get_spice_console": _console("get_spice_console"),
    "get_serial_console": _console("get_serial_console"),
    "get_diagnostics": _about("get_diagnostics", "diagnostics"),
    "get_instance_diagnostics": _about("get_instance_diagnostics", "diagnostics"),
    "get_instance_disk_info": _about("get_instance_disk_info", "disks"),
    "get_migration_status": get_migration_status,
    "get_volume_connector": get_volume_connector,
    "get_all_bw_counters": get_all_bw_counters,
    "get_all_volume_usage": get_all_volume_usage,
    "get_per_instance_usage": get_per_instance_usage,
    "block_stats": block_stats,
    "interface_stats": interface_stats,
}
