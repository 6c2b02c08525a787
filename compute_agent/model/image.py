# SPDX-License-Identifier: Apache-2.0
"""An image: where a root disk comes from."""

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from compute_agent.model import fields
from compute_agent.model.fields import Checksum, Count, Identifier, LongText, Text, Url


class DiskFormat(enum.StrEnum):
    """What the sender says the file is. The agent looks for itself before QEMU does."""

    RAW = "raw"
    QCOW2 = "qcow2"
    VMDK = "vmdk"
    VDI = "vdi"
    VHDX = "vhdx"
    ISO = "iso"


class Image(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An image and where to get it. ``size_bytes`` 0 means not told."""

    url: Url
    id: Identifier | None = None
    disk_format: DiskFormat = DiskFormat.RAW
    checksum: Checksum | None = None
    size_bytes: Count = 0
    min_disk_gb: Count = 0
    headers: Annotated[dict[Text, LongText], Meta(extra=fields.SECRET)] = {}
    properties: dict[Text, LongText] = {}
