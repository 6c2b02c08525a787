# SPDX-License-Identifier: Apache-2.0
"""A Linux guest that watches its disks and writes to them: a kernel and an initramfs, for a direct boot.

What it does and says is in `volumeguest.sh`. It has no root disk, and is up within seconds under plain
emulation.
"""

from __future__ import annotations

import gzip
import pathlib
import re

from tests.rig.guest import Guest
from tests.rig.linuxguest import initramfs, kernel
from tests.rig.linuxguest.build import cache_directory
from tests.rig.process import tool, wait_until

_INIT = pathlib.Path(__file__).resolve().with_suffix(".sh")
_MODULES = kernel.MODULES[: kernel.MODULES.index("virtio_blk") + 1]
CMDLINE = "console=ttyS0 quiet loglevel=3 panic=1 nokaslr mitigations=off no_timer_check"
MEMORY_MB = 160
UP_S = 90.0
_WRITTEN = re.compile(rb"written (\d{8})\n")


def files(directory: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """The kernel and the initramfs, put into `directory`. Raises RigError naming what is missing."""
    found = kernel.find(_cache())
    inside: dict[str, pathlib.Path | bytes] = {
        "init": _INIT,
        "bin/busybox": pathlib.Path(tool("busybox", "busybox-static")),
        "modules/order": "\n".join(_MODULES).encode(),
        **{f"modules/{name}.ko": found.modules[name] for name in _MODULES},
    }
    packed = gzip.compress(initramfs.archive(initramfs.entries(inside, {"init", "bin/busybox"})), 1, mtime=0)
    image, ramdisk = directory / "volumeguest.vmlinuz", directory / "volumeguest.initrd"
    image.write_bytes(found.image.read_bytes())
    ramdisk.write_bytes(packed)
    return image, ramdisk


def _cache() -> pathlib.Path:
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    return cache


def written(volume: bytes) -> int:
    """The number that a guest has written to a volume; 0 for none."""
    found = _WRITTEN.match(volume[1024:1536])
    return int(found[1]) if found else 0


class Disks:
    """What the guest says of its disks."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    def wait(self, pattern: str, timeout: float = UP_S) -> re.Match[str]:
        """Wait until a line of its console matches; the last one that does."""

        def look() -> re.Match[str] | None:
            found = list(re.finditer(pattern, self._guest.console(), re.M))
            return found[-1] if found else None

        return wait_until(look, timeout, f"{pattern!r} on the console", self._guest.console)

    def wait_disk(self, serial: str, bytes_: int | None = None) -> str:
        """Wait until it has a disk with this serial number (its first 20 characters), and size; its name."""
        size = r"\d+" if bytes_ is None else str(bytes_)
        return self.wait(rf"^disk (\w+) serial {re.escape(serial[:20])} bytes {size} ro \d\s*$")[1]

    def wait_writing(self, name: str, timeout: float = UP_S) -> None:
        """Wait until it has written to a disk, from now on."""
        before = self._last(name)
        wait_until(lambda: self._last(name) > before, timeout, f"a write to {name}", self._guest.console)

    def _last(self, name: str) -> int:
        found = re.findall(rf"^wrote {name} (\d+)\s*$", self._guest.console(), re.M)
        return int(found[-1]) if found else 0

    @property
    def failures(self) -> list[str]:
        """Writes that failed, as it said."""
        return re.findall(r"^failed .*?\s*$", self._guest.console(), re.M)
