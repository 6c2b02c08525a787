# SPDX-License-Identifier: Apache-2.0
"""What this driver's two ends of a live migration tell each other, inside ``LiveMigrateData.details``.

It comes from another host, so it is read by types that let nothing through which could become a path, an
argument or XML of another meaning.
"""

from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from compute_agent.model import errors
from compute_agent.model.fields import Base64, HostName, InterfaceName, MacAddress
from compute_agent.virt.info import LiveMigrateData

T = TypeVar("T")

FILES_LIMIT = 4 * 1024 * 1024
"""Characters that the small files of an instance may take on the wire."""
_DISKS_LIMIT = 64

FileName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$(?!\n)")]
Target = Annotated[str, Meta(pattern=r"^[a-z]{2,3}[a-z]{1,3}$(?!\n)")]
Address = HostName | Annotated[str, Meta(pattern=r"^[0-9A-Fa-f.:]{2,45}$(?!\n)")]
VolumeId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:+-]{1,128}$(?!\n)")]
FilterName = Annotated[str, Meta(pattern=r"^compute-agent-[0-9a-f-]{36}-tap[0-9a-f-]{1,12}$(?!\n)")]
AbsolutePath = Annotated[str, Meta(pattern=r"^(/[^/\x00-\x1f\x7f]+)+$(?!\n)", max_length=1024)]


class MovedDisk(msgspec.Struct, frozen=True, kw_only=True):
    """A disk of the source's own storage, which QEMU copies.

    :param target: its name in the guest
    :param name: of its file in the instance's directory
    :param size_bytes: that the guest sees
    :param used_bytes: that it takes now, with all it stands on
    """

    target: Target
    name: FileName
    format: Literal["raw", "qcow2"]
    size_bytes: Annotated[int, Meta(ge=0)]
    used_bytes: Annotated[int, Meta(ge=0)] = 0
    encrypted: bool = False


class CarriedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A small file beside the disks (config drive, notes): its contents, packed.

    :param sha256: of the contents as they were read, in hexadecimal
    """

    name: FileName
    mode: Annotated[int, Meta(ge=0, le=0o777)]
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
    packed: Annotated[Base64, Meta(max_length=FILES_LIMIT)]


class Destination(msgspec.Struct, frozen=True, kw_only=True):
    """What the destination says of itself.

    :param address: where its libvirtd and its QEMU are reached
    :param mark: a file that it has left in its ``instances_path``
    :param free_bytes: of its ``instances_path``
    :param bridges: by the address of each VIF, as soon as it is prepared
    :param filters: by the address of each VIF that is filtered there; as soon as they are in place
    :param listen: of its graphical consoles
    :param volumes: by id, where it finds each, as libvirt's XML of a disk; as soon as it is prepared
    :param libvirt: its version, as libvirt's number
    """

    address: Address
    instances_path: AbsolutePath
    mark: FileName
    free_bytes: int = 0
    bridges: dict[MacAddress, InterfaceName] = {}
    filters: dict[MacAddress, FilterName] | None = None
    listen: dict[Literal["vnc", "spice"], Address] = {}
    volumes: dict[VolumeId, Annotated[str, Meta(max_length=16384)]] = {}
    libvirt: int = 0


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """What the source says of the guest.

    :param runs: False for one that is paused, and stays so
    :param cpu: the guest's processor, as libvirt's XML
    :param console: the end of what it has said until it was checked
    """

    runs: bool
    machine: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}$(?!\n)")] = "none"
    cpu: Annotated[str, Meta(max_length=65536)] | None = None
    disks: Annotated[list[MovedDisk], Meta(max_length=_DISKS_LIMIT)] = []
    files: Annotated[list[CarriedFile], Meta(max_length=_DISKS_LIMIT)] = []
    console: CarriedFile | None = None


class Details(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. ``asked`` is what the scheduler said of block migration; None: find out."""

    asked: bool | None = None
    destination: Destination | None = None
    source: Source | None = None


def read(data: LiveMigrateData) -> Details:
    """Return the details.

    :raises InvalidArguments: if they are not what this driver's other end would send
    """
    try:
        return msgspec.convert(data.details, Details)
    except msgspec.ValidationError as error:
        raise errors.InvalidArguments(
            f"the other end of the migration sent what is no details: {error}"
        ) from None


def write(data: LiveMigrateData, found: Details) -> LiveMigrateData:
    """Put the details into ``data``, and return that."""
    data.details = msgspec.to_builtins(found)
    return data


def destination(data: LiveMigrateData) -> Destination:
    """Return what the destination said. Raises as :func:`read`, also where it said nothing."""
    return _said(read(data).destination, "destination")


def source(data: LiveMigrateData) -> Source:
    """Return what the source said. Raises as :func:`read`, also where it said nothing."""
    return _said(read(data).source, "source")


def _said(part: T | None, end: str) -> T:
    if part is None:
        raise errors.InvalidArguments(f"the {end} of the migration has not been checked")
    return part
