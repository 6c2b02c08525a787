# SPDX-License-Identifier: Apache-2.0
"""The guest's initramfs: a cpio archive ("newc") written here, so that it is the same for the same inputs.

Everything in it belongs to root whoever builds it.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
import stat
import subprocess

from tests.rig.process import RigError, tool

_MAGIC = b"070701"
_CONSOLE = (5, 1)
_PASSWD = "root:x:0:0:root:/:/bin/sh\n"
_SHADOW = "root:*:19000:0:99999:7:::\n"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file, directory, link or device of the archive."""

    name: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def archive(entries: list[Entry]) -> bytes:
    """The archive of these entries, in their order."""
    parts = [_packed(number, entry) for number, entry in enumerate(entries, start=1)]
    return b"".join([*parts, _packed(0, Entry("TRAILER!!!", 0))])


def _packed(inode: int, entry: Entry) -> bytes:
    name = entry.name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (inode, entry.mode, 0, 0, links, 0, len(entry.content), 0, 0, *entry.device, len(name), 0)
    head = _MAGIC + b"".join(b"%08x" % field for field in fields) + name
    return _aligned(head) + _aligned(entry.content)


def _aligned(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


def entries(files: dict[str, pathlib.Path | bytes], executable: set[str]) -> list[Entry]:
    """The entries for files by their path in the guest, with the directories above them."""
    made: dict[str, Entry] = {}
    everything = {**files, "etc/passwd": _PASSWD.encode(), "etc/shadow": _SHADOW.encode()}
    for name in sorted(everything):
        for above in reversed(pathlib.PurePosixPath(name).parents):
            if str(above) != ".":
                made.setdefault(str(above), Entry(str(above), stat.S_IFDIR | 0o755))
        source = everything[name]
        content = source if isinstance(source, bytes) else source.read_bytes()
        made[name] = Entry(name, stat.S_IFREG | (0o755 if name in executable else 0o644), content)
    made.setdefault("dev", Entry("dev", stat.S_IFDIR | 0o755))
    made["dev/console"] = Entry("dev/console", stat.S_IFCHR | 0o600, device=_CONSOLE)
    return list(made.values())


def libraries(program: pathlib.Path) -> dict[str, pathlib.Path]:
    """The shared libraries that a program of this machine needs, by their path in the guest.

    Raises RigError if one is missing.
    """
    told = subprocess.run([tool("ldd", "libc-bin"), str(program)], capture_output=True, text=True).stdout
    if "not found" in told:
        raise RigError(f"{program} lacks libraries:\n{told}")
    paths = [pathlib.Path(found) for found in re.findall(r"(?:=> |^\s*)(/\S+) \(0x", told, flags=re.M)]
    return {str(path).lstrip("/"): path for path in paths}
