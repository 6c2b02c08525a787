# SPDX-License-Identifier: Apache-2.0
"""From files to the bytes of a drive, and back: ISO 9660 or FAT, by name."""

from collections.abc import Callable, Mapping

from compute_agent.virt.configdrive import fat, iso

ISO9660 = "iso9660"
VFAT = "vfat"
FORMATS: Mapping[str, Callable[[Mapping[str, bytes], str], bytes]] = {ISO9660: iso.build, VFAT: fat.build}
"""How a drive is built, by ``config_drive_format``."""
_ISO_MARK = slice(32769, 32774)
HEAD_BYTES = _ISO_MARK.stop
"""How much of a drive tells its format."""


def build(files: Mapping[str, bytes], drive_format: str, label: str) -> bytes:
    """Return a drive with ``files``.

    :param drive_format: a key of :data:`FORMATS`
    :param label: the file system's, at most 11 characters of ASCII
    """
    return FORMATS[drive_format](files, label)


def format_of(head: bytes) -> str | None:
    """Return the format of a drive by its first :data:`HEAD_BYTES`; None if it is neither."""
    if head[_ISO_MARK] == b"CD001":
        return ISO9660
    is_fat = head[510:512] == b"\x55\xaa" and b"FAT" in (head[54:57], head[82:85])
    return VFAT if is_fat else None


def read(data: bytes) -> dict[str, bytes]:
    """Return the files of a drive that :func:`build` made, by their paths.

    :raises ValueError: if it is none
    """
    drive_format = format_of(data[:HEAD_BYTES])
    if drive_format is None:
        raise ValueError("not a config drive")
    return iso.read(data) if drive_format == ISO9660 else fat.read(data)
