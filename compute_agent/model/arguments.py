# SPDX-License-Identifier: Apache-2.0
"""What each verb takes. :data:`VERBS` is the list of all verbs.

The agent decodes a message's ``args`` with these types, a client checks its own before it
sends them, and the JSON Schemas are made from them.
"""

import datetime
import enum
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from compute_agent.model import errors, fields, security_group
from compute_agent.model.block_device import BlockDevice, ConnectionInfo, Volume
from compute_agent.model.fields import (
    Count,
    Generation,
    HostName,
    Identifier,
    LongText,
    Seconds,
    SecretBase64,
    SecretText,
    Text,
    Url,
    Uuid,
)
from compute_agent.model.flavor import Flavor
from compute_agent.model.handshake import Kind
from compute_agent.model.image import Image
from compute_agent.model.instance import Instance
from compute_agent.model.security_group import GroupMember, ProviderRule, SecurityGroup, SecurityGroupRule
from compute_agent.model.vif import Vif

Path = Annotated[str, Meta(pattern=r"^/[^\x00-\x1f\x7f\ud800-\udfff]*$(?!\n)", max_length=1024)]
InjectedFiles = Annotated[list[tuple[Path, SecretBase64]], Meta(max_length=128, extra=fields.SECRET)]
INJECTED_FILES_LIMIT = 2**20
"""Bytes that the injected files of one request have together at most."""
Moment = Annotated[datetime.datetime, Meta(tz=True)]


def check_files(files: Iterable[tuple[str, str]]) -> None:
    """Check injected files by their size, before anything of them is decoded.

    :raises MessageTooLarge: if they have more than :data:`INJECTED_FILES_LIMIT` bytes together
    """
    size = sum(len(contents) * 3 // 4 for _path, contents in files)
    if size > INJECTED_FILES_LIMIT:
        raise errors.MessageTooLarge(
            f"the injected files have {size} bytes together, the limit is {INJECTED_FILES_LIMIT}"
        )


class Arguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every verb takes."""

    operation_id: Uuid | None = None
    expires_at: Moment | None = None
    timeout_s: Annotated[float, Meta(gt=0, le=30 * 86400)] | None = None
    generation: Generation | None = None
    if_revision: Count | None = None
    host_id: Uuid | None = None
    retry_of: Uuid | None = None
    parent_operation_id: Uuid | None = None


class OnInstance(Arguments, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a verb on one instance takes."""

    instance_uuid: Uuid


class Made(Arguments, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a verb that brings an instance takes."""

    instance: Instance

    @property
    def instance_uuid(self) -> str:
        """The instance's uuid, as verbs on an existing one have it."""
        return self.instance.uuid


# --- lifecycle -------------------------------------------------------------------------------------


class Spawn(Made, frozen=True, kw_only=True, forbid_unknown_fields=True):
    admin_password: SecretText | None = None
    injected_files: InjectedFiles = []


class Disks(enum.StrEnum):
    REUSE = "reuse"
    RECREATE = "recreate"


class Evacuate(Made, frozen=True, kw_only=True, forbid_unknown_fields=True):
    disks: Disks
    fenced: bool


class Destroy(OnInstance, frozen=True, kw_only=True, forbid_unknown_fields=True):
    destroy_disks: bool = True


class Rebuild(OnInstance, frozen=True, kw_only=True, forbid_unknown_fields=True):
    image: Image
    admin_password: SecretText | None = None
    injected_files: InjectedFiles = []
    preserve_ephemeral: bool = False


class UpdateInstance(OnInstance, frozen=True, kw_only=True, forbid_unknown_fields=True):
    network_info: list[Vif] | None = None
    block_device_mapping: list[BlockDevice] | None = None
    metadata: dict[Text, LongText] | None = None
    security_groups: list[SecurityGroup] | None = None


class Adopt(OnInstance, frozen=True, kw_only=True, forbid_unknown_fields=True):
    instance: Instance | None = None


# --- power -----------------------------------------------------------------------------------------


class RebootType(enum.StrEnum):
    SOFT = "SOFT"
    HARD = "HARD"


class Reboot(OnInstance, frozen=True, kw_only=True, forbid_unknown_fields=True):
    reboot_type: RebootType = RebootType.SOFT


class PowerOff(OnInstance, frozen=True, kw_only=True, forbid_unknown_fields=True):
    timeout: Seconds = 60
    retry_interval: Seconds = 10


class Rescue(OnInstance, frozen=True, kw_only=True, forbid_unknown_fields=True):
    rescue_image: Image | None = None
    rescue_password: SecretText | None = None


# --- storage ---------------------------------------------------------------------------------------


class Destination(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    url: Url
    format: Text = "qcow2"
    headers: Annotated[dict[Text, LongText], Meta(extra=fields.SECRET)] = {}


class Snapshot(OnInstance, frozen=True, kw_only=True, forbid_unknown_fields=True):
    destination: Destination


class AttachVolume(OnInstance, frozen=True, kw_only=True, forbid_unknown_fields=True):
    volume: Volume


class DetachVolume(OnInstance, frozen=True, kw_only=True, forbid_unknown_fields=True):
    volume_id: Identifier


class SwapVolume(OnInstance, frozen=True, kw_only=True, forbid_unknown_fields=True):
    old_volume_id: Identifier
    volume: Volume
    resize_to: Count = 0


class ExtendVolume(OnInstance, frozen=True, kw_only=True, forbid_unknown_fields=True):
    volume_id: Identifier
    connection_info: ConnectionInfo
    size_gb: Count


class VolumeSnapshotCreate(OnInstance, frozen=True, kw_only=True, forbid_unknown_fields=True):
    volume_id: Identifier
    create_info: dict[str, Any]


class VolumeSnapshotDelete(OnInstance, frozen=True, kw_only=True, forbid_unknown_fields=True):
    volume_id: Identifier
    snapshot_id: Identifier
    delete_info: dict[str, Any]


class Images(Arguments, frozen=True, kw_only=True, forbid_unknown_fields=True):
    images: list[Image] = []


# --- network ---------------------------------------------------------------------------------------


class AttachInterface(OnInstance, frozen=True, kw_only=True, forbid_unknown_fields=True):
    vif: Vif


class DetachInterface(OnInstance, frozen=True, kw_only=True, forbid_unknown_fields=True):
    vif_id: Identifier


class RefreshRules(Arguments, frozen=True, kw_only=True, forbid_unknown_fields=True):
    group_id: Identifier
    rules: list[SecurityGroupRule]

    def __post_init__(self) -> None:
        security_group.check_id(self.group_id)


class RefreshMembers(Arguments, frozen=True, kw_only=True, forbid_unknown_fields=True):
    group_id: Identifier
    members: list[GroupMember]


class RefreshInstanceRules(OnInstance, frozen=True, kw_only=True, forbid_unknown_fields=True):
    security_groups: list[SecurityGroup]


class RefreshProviderRules(Arguments, frozen=True, kw_only=True, forbid_unknown_fields=True):
    rules: list[ProviderRule]


# --- migration -------------------------------------------------------------------------------------


class MigrationMode(enum.StrEnum):
    LIVE = "live"
    COLD = "cold"


class OnTimeout(enum.StrEnum):
    ABORT = "abort"
    FORCE = "force"


class MigrationPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    max_downtime_ms: Count | None = None
    bandwidth_mib: Count | None = None
    auto_converge: bool | None = None
    post_copy: bool | None = None
    on_timeout: OnTimeout = OnTimeout.ABORT


class Migrate(OnInstance, frozen=True, kw_only=True, forbid_unknown_fields=True):
    dest: HostName
    mode: MigrationMode
    block_migration: bool | None = None
    flavor: Flavor | None = None
    dest_network_info: list[Vif] | None = None
    dest_block_device_mapping: list[BlockDevice] | None = None
    policy: MigrationPolicy = MigrationPolicy()
    confirm: bool = False


class ReceiveMigration(Made, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the agent at a destination asks of itself when the source's has asked it to prepare.

    ``source_info``: what decides whether the source's guests can run here. ``runs``: the guest ran. ``data``:
    what the drivers of both ends have agreed on before. ``resize``: it is to have another flavor.
    ``reverts``: the migration that is taken back. ``attempt``: to send disks, which needs a way of its own.
    ``confirm``: nobody will want it back.
    """

    migration_id: Uuid
    source: HostName
    kind: Kind
    runs: bool = True
    block_migration: bool | None = None
    resize: bool = False
    reverts: Uuid | None = None
    attempt: Identifier = "0"
    confirm: bool = False
    policy: MigrationPolicy = MigrationPolicy()
    source_info: dict[str, Any] = {}
    data: dict[str, Any] = {}


# --- guest -----------------------------------------------------------------------------------------


class SetAdminPassword(OnInstance, frozen=True, kw_only=True, forbid_unknown_fields=True):
    new_pass: SecretText


class InjectFile(OnInstance, frozen=True, kw_only=True, forbid_unknown_fields=True):
    b64_path: fields.Base64
    b64_contents: SecretBase64


class ChangeMetadata(OnInstance, frozen=True, kw_only=True, forbid_unknown_fields=True):
    diff: dict[Text, Annotated[list[LongText], Meta(min_length=1, max_length=2)]]


class BalloonMemory(OnInstance, frozen=True, kw_only=True, forbid_unknown_fields=True):
    memory_mb: Annotated[int, Meta(ge=1, le=2**26)]


# --- control and host ------------------------------------------------------------------------------


class ExternalEvent(OnInstance, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Identifier
    tag: Identifier | None = None
    status: Identifier = "completed"


class CancelOperation(Arguments, frozen=True, kw_only=True, forbid_unknown_fields=True):
    target: Uuid


class DestroyOrphan(Arguments, frozen=True, kw_only=True, forbid_unknown_fields=True):
    orphan_id: Identifier


class SetHostEnabled(Arguments, frozen=True, kw_only=True, forbid_unknown_fields=True):
    enabled: bool
    reason: Text | None = None


class MaintenanceMode(enum.StrEnum):
    ON = "on"
    OFF = "off"


class HostMaintenance(Arguments, frozen=True, kw_only=True, forbid_unknown_fields=True):
    mode: MaintenanceMode
    destinations: dict[Uuid, HostName] | None = None


class PowerAction(enum.StrEnum):
    REBOOT = "reboot"
    SHUTDOWN = "shutdown"
    STARTUP = "startup"
    POWERCYCLE = "powercycle"


class HostPowerAction(Arguments, frozen=True, kw_only=True, forbid_unknown_fields=True):
    action: PowerAction


class ConfirmInstances(Arguments, frozen=True, kw_only=True, forbid_unknown_fields=True):
    instance_uuids: list[Uuid]


VERBS: dict[str, type[Arguments]] = {
    "spawn": Spawn,
    "evacuate": Evacuate,
    "destroy": Destroy,
    "rebuild": Rebuild,
    "reboot": Reboot,
    "power_on": OnInstance,
    "power_off": PowerOff,
    "pause": OnInstance,
    "unpause": OnInstance,
    "suspend": OnInstance,
    "resume": OnInstance,
    "soft_delete": OnInstance,
    "restore": OnInstance,
    "rescue": Rescue,
    "unrescue": OnInstance,
    "update_instance": UpdateInstance,
    "snapshot": Snapshot,
    "attach_volume": AttachVolume,
    "detach_volume": DetachVolume,
    "swap_volume": SwapVolume,
    "extend_volume": ExtendVolume,
    "volume_snapshot_create": VolumeSnapshotCreate,
    "volume_snapshot_delete": VolumeSnapshotDelete,
    "attach_interface": AttachInterface,
    "detach_interface": DetachInterface,
    "migrate": Migrate,
    "confirm_migration": OnInstance,
    "revert_migration": OnInstance,
    "live_migration_abort": OnInstance,
    "live_migration_force_complete": OnInstance,
    "set_admin_password": SetAdminPassword,
    "inject_file": InjectFile,
    "change_instance_metadata": ChangeMetadata,
    "trigger_crash_dump": OnInstance,
    "quiesce": OnInstance,
    "unquiesce": OnInstance,
    "balloon_memory": BalloonMemory,
    "external_event": ExternalEvent,
    "cancel_operation": CancelOperation,
    "refresh_security_group_rules": RefreshRules,
    "refresh_security_group_members": RefreshMembers,
    "refresh_instance_security_rules": RefreshInstanceRules,
    "refresh_provider_fw_rules": RefreshProviderRules,
    "adopt": Adopt,
    "forget": OnInstance,
    "destroy_orphan": DestroyOrphan,
    "set_host_enabled": SetHostEnabled,
    "host_maintenance_mode": HostMaintenance,
    "host_power_action": HostPowerAction,
    "cache_images": Images,
    "manage_image_cache": Images,
    "confirm_instances": ConfirmInstances,
}
"""Every verb and the type of its arguments."""

PEER_VERBS: dict[str, type[Arguments]] = {"receive_migration": ReceiveMigration}
"""Verbs that an agent asks of itself for its peers. They are journalled as all others; nobody sends one."""
