# SPDX-License-Identifier: Apache-2.0
"""An instance as the scheduler describes it, and the record that the agent keeps of it."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from compute_agent.model import errors, fields
from compute_agent.model.block_device import BlockDevice
from compute_agent.model.clock import Timestamp
from compute_agent.model.fields import (
    DeviceName,
    Generation,
    Identifier,
    LongText,
    Name,
    SecretBase64,
    Text,
    Url,
    Uuid,
)
from compute_agent.model.flavor import Flavor
from compute_agent.model.image import Image
from compute_agent.model.security_group import SecurityGroup
from compute_agent.model.states import InstanceState, PowerState
from compute_agent.model.vif import Vif


class Instance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a scheduler sends to have a guest, and what every driver member is given."""

    uuid: Uuid
    flavor: Flavor
    name: Name = ""
    generation: Generation = 0
    project_id: Identifier | None = None
    user_id: Identifier | None = None
    display_name: Text | None = None
    hostname: Name | None = None
    image: Image | None = None
    kernel: Url | None = None
    ramdisk: Url | None = None
    cmdline: LongText | None = None
    network_info: list[Vif] = []
    block_device_mapping: list[BlockDevice] = []
    security_groups: list[SecurityGroup] = []
    metadata: dict[Text, LongText] = {}
    user_data: SecretBase64 | None = None
    vendor_data: Annotated[dict[str, Any], Meta(extra=fields.SECRET)] = {}
    config_drive: bool = False
    ssh_keys: list[Annotated[str, Meta(max_length=16384)]] = []
    root_device_name: DeviceName | None = None
    start_paused: bool = False

    def named(self) -> "Instance":
        """Return it with its default name, ``instance-`` and the uuid's first part, if it has none."""
        if self.name:
            return self
        return msgspec.structs.replace(self, name=f"instance-{self.uuid.partition('-')[0]}")

    def check(self) -> None:
        """Check what no single field's type can say.

        :raises InvalidArguments: naming what is wrong
        """
        bootable = any(d.boot_index == 0 for d in self.block_device_mapping)
        if not (self.image or self.kernel or bootable):
            raise errors.InvalidArguments(
                "an instance needs an image, a kernel or a block device with boot_index 0"
            )
        for what, values in (
            ("VIF id", [v.id for v in self.network_info]),
            ("VIF address", [v.address.lower() for v in self.network_info]),
            ("mountpoint", [d.mountpoint for d in self.block_device_mapping if d.mountpoint]),
            ("volume_id", [d.volume_id for d in self.block_device_mapping if d.volume_id]),
        ):
            twice = {v for v in values if values.count(v) > 1}
            if twice:
                raise errors.InvalidArguments(f"{what} given twice: {', '.join(sorted(twice))}")
        for vif in self.network_info:
            _ = vif.addresses  # which raises what is wrong with them
        minimum = self.flavor.min_memory_mb
        if minimum is not None and minimum > self.flavor.memory_mb:
            raise errors.InvalidArguments("flavor.min_memory_mb is above flavor.memory_mb")


class InstanceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An instance on record: its description and what has become of it.

    ``revision`` rises with every change of the record; ``if_revision`` refers to it.
    """

    uuid: Uuid
    instance: Instance
    state: InstanceState
    power_state: PowerState = PowerState.NOSTATE
    generation: int = 0
    revision: int = 0
    managed: bool = True
    bootable: bool = True
    error: errors.Error | None = None
    operation_id: str | None = None
    created_at: Timestamp = ""
    updated_at: Timestamp = ""
    moved_to: str | None = None

    @property
    def gone(self) -> bool:
        """True for a tombstone."""
        return self.state is InstanceState.GONE
