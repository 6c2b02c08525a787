# SPDX-License-Identifier: Apache-2.0
"""What this driver's two ends of a cold migration tell each other, inside ``LiveMigrateData.details``.

It comes from another host, so it is read by types that let nothing through which could become a path, an
argument or XML of another meaning.
"""

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from compute_agent.model import errors
from compute_agent.virt.info import LiveMigrateData
from compute_agent.virt.libvirt.migration.details import AbsolutePath, Address, FileName

T = TypeVar("T")

_FILES_LIMIT = 256
MANIFEST = "manifest"
SMALL_ROOM = 1024 * 1024
"""By how many bytes a small file may grow."""
Hex40 = Annotated[str, Meta(pattern=r"^[0-9a-f]{40}$(?!\n)")]
Hex64 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
ExportName = Annotated[str, Meta(pattern=r"^[a-z]{3,8}\.[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$(?!\n)")]


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """A file that goes over.

    :param kind: ``file`` of the instance's directory, ``key`` of an encrypted disk, or ``base``: a cached one
    :param size_bytes: now; a guest that runs may still change it
    :param room_bytes: that it may take at most, when it is sent
    :param used_bytes: that it takes of its storage
    :param base: what a disk stands on, by its name in the cache
    """

    kind: Literal["file", "key", "base"]
    name: FileName
    size_bytes: Annotated[int, Meta(ge=0, le=2**60)]
    room_bytes: Annotated[int, Meta(ge=0, le=2**60)]
    used_bytes: Annotated[int, Meta(ge=0, le=2**60)] = 0
    mode: Annotated[int, Meta(ge=0, le=0o777)] = 0o600
    base: Hex40 | None = None

    @property
    def export(self) -> str:
        """The name under which the destination takes it in."""
        return f"{self.kind}.{self.name}"


class Base(msgspec.Struct, frozen=True, kw_only=True):
    """The cached image that a disk stands on.

    :param size_bytes: of the file in the cache
    :param sha256: of what was fetched
    :param file_sha256: of the file in the cache
    """

    name: Hex40
    format: Literal["raw", "qcow2"]
    virtual_size: Annotated[int, Meta(ge=0)]
    size_bytes: Annotated[int, Meta(ge=0, le=2**60)]
    source_size: Annotated[int, Meta(ge=0)]
    sha256: Hex64
    file_sha256: Hex64 | None = None

    def as_file(self) -> Moved:
        """Return it as a file that goes over."""
        room = self.size_bytes + SMALL_ROOM
        return Moved(kind="base", name=self.name, size_bytes=self.size_bytes, room_bytes=room, mode=0o644)


class Destination(msgspec.Struct, frozen=True, kw_only=True):
    """What the destination says of itself.

    :param mark: a file that it has left in its ``instances_path``
    :param keys_mark: the same where it keeps keys; None: it has none
    :param free_bytes: of its ``instances_path``
    :param aside: whether the guest is set aside there: then it may only go back
    """

    instances_path: AbsolutePath
    mark: FileName
    keys_mark: FileName | None = None
    free_bytes: int = 0
    aside: bool = False


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """How the files get in. The secret is for this migration alone.

    :param incarnation: of the files that are being filled
    :param wanted: the names of the exports that there are
    """

    address: Address
    port: Annotated[int, Meta(ge=1, le=65535)]
    secret: Hex64
    incarnation: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$(?!\n)")]
    wanted: Annotated[list[ExportName], Meta(max_length=_FILES_LIMIT)] = []


class Details(msgspec.Struct, frozen=True, kw_only=True):
    """All of it; ``disks`` are the files that have to go over."""

    destination: Destination | None = None
    disks: Annotated[list[Moved], Meta(max_length=_FILES_LIMIT)] = []
    bases: Annotated[list[Base], Meta(max_length=_FILES_LIMIT)] = []
    way: Way | None = None


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What was sent, told last: sizes are the final ones.

    :param definition: of the guest at the source
    :param instances_path: of the source, which stands in the definition
    """

    files: list[Moved]
    definition: Annotated[str, Meta(max_length=8 * 1024 * 1024)] | None = None
    instances_path: AbsolutePath | None = None


def read(data: LiveMigrateData) -> Details:
    """Return the details.

    :raises InvalidArguments: if they are not what this driver's other end would send
    """
    return _converted(data.details, Details)


def write(data: LiveMigrateData, found: Details) -> LiveMigrateData:
    """Put the details into ``data``, and return that."""
    data.details = msgspec.to_builtins(found)
    return data


def manifest(text: bytes) -> Manifest:
    """Return the manifest in what came; zeros follow it. Raises as :func:`read`."""
    try:
        return msgspec.json.decode(text.rstrip(b"\0"), type=Manifest)
    except msgspec.MsgspecError as error:
        raise errors.InvalidArguments(f"the manifest of the disks makes no sense: {error}") from None


def _converted(plain: Any, kind: type[T]) -> T:
    try:
        return msgspec.convert(plain, kind)
    except msgspec.ValidationError as error:
        raise errors.InvalidArguments(
            f"the other end of the migration sent what is no details: {error}"
        ) from None
