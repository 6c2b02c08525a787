# SPDX-License-Identifier: Apache-2.0
"""Block devices of an instance beside its image: volumes, blank disks, further images."""

import enum
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from compute_agent.model import fields
from compute_agent.model.fields import Count, DeviceName, Identifier, Text
from compute_agent.model.image import Image


class SourceType(enum.StrEnum):
    """What a block device is made from."""

    VOLUME = "volume"
    BLANK = "blank"
    IMAGE = "image"


ConnectionInfo = Annotated[
    dict[str, Any], Meta(extra=fields.SECRET, description="Cinder's form of a connection")
]


class Volume(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A volume to attach. ``connection_info`` has Cinder's form and may hold passwords."""

    volume_id: Identifier
    connection_info: ConnectionInfo
    mountpoint: DeviceName | None = None
    disk_bus: Text | None = None
    device_type: Text | None = None
    encryption: Annotated[dict[str, Any], Meta(extra=fields.SECRET)] | None = None
    read_only: bool = False
    tag: Identifier | None = None


class BlockDevice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry of ``block_device_mapping``; sizes in GiB."""

    source_type: SourceType
    volume_id: Identifier | None = None
    connection_info: ConnectionInfo | None = None
    mountpoint: DeviceName | None = None
    boot_index: int | None = None
    size_gb: Count = 0
    disk_bus: Text | None = None
    device_type: Text | None = None
    read_only: bool = False
    delete_on_termination: bool = False
    encryption: Annotated[dict[str, Any], Meta(extra=fields.SECRET)] | None = None
    tag: Identifier | None = None
    image: Image | None = None
