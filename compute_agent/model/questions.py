# SPDX-License-Identifier: Apache-2.0
"""What each question takes. Questions change nothing and are answered at once, by call."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from compute_agent.model.fields import Count, Identifier, PageSize, Text, Uuid
from compute_agent.model.instance import Instance
from compute_agent.model.operation import OperationState
from compute_agent.model.states import InstanceState


class Nothing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A question without arguments."""


class AboutInstance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    instance_uuid: Uuid


class AboutInstances(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One instance, many, or (neither given) all of them."""

    instance_uuid: Uuid | None = None
    instance_uuids: Annotated[list[Uuid], Meta(max_length=1000)] | None = None


class ListInstances(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    state: InstanceState | None = None
    managed: bool | None = None
    fields: list[Identifier] | None = None
    marker: Uuid | None = None
    limit: PageSize = 100


class GetOperation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    operation_id: Uuid


class ListOperations(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``since``: RFC 3339; operations accepted at or after it. Newest first."""

    state: OperationState | None = None
    verb: Identifier | None = None
    since: Text | None = None
    instance_uuid: Uuid | None = None
    marker: Uuid | None = None
    limit: PageSize = 100


class GetEvents(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Events after ``since`` (a seq) of ``epoch``."""

    epoch: Uuid | None = None
    since: Count = 0
    types: list[Text] | None = None
    instance_uuid: Uuid | None = None
    limit: PageSize = 100


class GetSnapshot(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    marker: Text | None = None
    limit: PageSize = 100


class ListOrphans(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    kind: Identifier | None = None


class GetConsoleOutput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``length``: bytes from the end; at most 1 MiB."""

    instance_uuid: Uuid
    length: Annotated[int, Meta(ge=1, le=700_000)] = 65536


class BlockStats(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    instance_uuid: Uuid
    disk_id: Identifier


class InterfaceStats(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    instance_uuid: Uuid
    iface_id: Identifier


class CheckInstance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    instance: Instance


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    verb: Identifier
    arguments: dict[str, Any] = {}


QUESTIONS: dict[str, type[msgspec.Struct]] = {
    "ping": Nothing,
    "get_version": Nothing,
    "get_instance": AboutInstance,
    "list_instances": ListInstances,
    "list_instance_uuids": Nothing,
    "get_info": AboutInstances,
    "get_operation": GetOperation,
    "list_operations": ListOperations,
    "get_events": GetEvents,
    "get_snapshot": GetSnapshot,
    "list_orphans": ListOrphans,
    "explain": AboutInstance,
    "get_available_resource": Nothing,
    "get_inventory": Nothing,
    "get_traits": Nothing,
    "get_host_uptime": Nothing,
    "get_host_cpu_stats": Nothing,
    "get_console_output": GetConsoleOutput,
    "get_vnc_console": AboutInstance,
    "get_spice_console": AboutInstance,
    "get_serial_console": AboutInstance,
    "get_diagnostics": AboutInstance,
    "get_instance_diagnostics": AboutInstance,
    "get_instance_disk_info": AboutInstance,
    "get_volume_connector": Nothing,
    "get_all_bw_counters": Nothing,
    "get_all_volume_usage": Nothing,
    "get_per_instance_usage": Nothing,
    "block_stats": BlockStats,
    "interface_stats": InterfaceStats,
    "get_migration_status": AboutInstance,
    "check_parameters": CheckInstance,
    "validate_parameters": CheckInstance,
    "plan": Plan,
    "verify": Nothing,
}
"""Every question and the type of its arguments."""
