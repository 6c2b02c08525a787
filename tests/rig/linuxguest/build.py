# SPDX-License-Identifier: Apache-2.0
"""The image of the Linux guest: made once, kept in the user's cache by a hash of what it is made from.

It is a FAT file system with syslinux, the kernel and the initramfs, followed by the zone in which the witness
keeps its records. Invariants: an image in the cache is whole (it gets its name last) and nobody writes to it;
several processes that want it at once build it once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import gzip
import hashlib
import os
import pathlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator

from tests.rig.linuxguest import initramfs, kernel
from tests.rig.process import RigError, tool

_HERE = pathlib.Path(__file__).resolve().parent
_MIB = 1024 * 1024
_SECTOR = 512
_FAT_MIB = 40
_KEEP_S = 14 * 24 * 3600.0
# pti: QEMU before 9.0 loses writes of a guest that is migrated under plain emulation, if its TLB was not
# flushed since the dirty bits were last read (docs/operations.md): with it, each entry and exit flushes it.
_BASE_ARGUMENTS = "console=ttyS0 quiet loglevel=4 panic=1 nokaslr mitigations=off pti=on no_timer_check"


@dataclasses.dataclass(frozen=True)
class Zone:
    """Where on the disk the records are, in bytes."""

    offset: int
    length: int


ZONE = Zone(_FAT_MIB * _MIB, 8 * _MIB)
SIZE_BYTES = ZONE.offset + ZONE.length


@dataclasses.dataclass(frozen=True)
class Program:
    """What the guest does besides.

    tick_ms: a tick every so often. dirty_mib: memory that is always changing. fill_mib: memory in use.
    """

    tick_ms: int = 100
    dirty_mib: int = 0
    fill_mib: int = 0

    def arguments(self) -> str:
        """The kernel's command line."""
        zone = f"rig.zone={ZONE.offset},{ZONE.length}"
        does = f"rig.tick={self.tick_ms} rig.dirty={self.dirty_mib} rig.fill={self.fill_mib}"
        return f"{_BASE_ARGUMENTS} {zone} {does}"

    def loader(self) -> str:
        """The boot loader's configuration."""
        kernel_lines = f" KERNEL vmlinuz\n APPEND initrd=initrd {self.arguments()}\n"
        return f"DEFAULT rig\nPROMPT 0\nLABEL rig\n{kernel_lines}"


def cache_directory() -> pathlib.Path:
    """Where what the rig builds is kept for later runs."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "compute-agent-rig"


def image(path: pathlib.Path, program: Program | None = None, *, qcow2: bool = False) -> pathlib.Path:
    """A fresh image at `path`: raw, or qcow2. Raises RigError naming the package that is missing."""
    if qcow2:
        source = image(path.with_name(path.name + ".source"), program)
        command = [tool("qemu-img", "qemu-utils"), "convert", "-f", "raw", "-O", "qcow2"]
        subprocess.run([*command, str(source), str(path)], check=True, capture_output=True, timeout=120)
        source.unlink()
        return path
    command = ["cp", "--sparse=always", "--reflink=auto", str(base_image()), str(path)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    if program is not None:
        _put(path, {"syslinux.cfg": program.loader().encode()})
    return path


def base_image() -> pathlib.Path:
    """The image in the cache, made if need be."""
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / "lock"):
        files = _files(cache)
        path = cache / f"linuxguest-{_digest(files)}.raw"
        if not path.exists():
            _forget_old(cache)
            _build(path, *files)
        os.utime(path)
        return path


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _forget_old(cache: pathlib.Path) -> None:
    for path in cache.glob("linuxguest-*"):
        if time.time() - path.stat().st_mtime > _KEEP_S:
            path.unlink(missing_ok=True)


def _files(cache: pathlib.Path) -> tuple[kernel.Kernel, dict[str, pathlib.Path], list[pathlib.Path]]:
    """The kernel, what goes into the initramfs by its path there, and what else decides over the image."""
    found = kernel.find(cache)
    agent = pathlib.Path(tool("qemu-ga", "qemu-guest-agent"))
    files = {
        "init": _HERE / "init.sh",
        "sbin/shutdown": _HERE / "shutdown.sh",
        "bin/busybox": _static_busybox(),
        "sbin/qemu-ga": agent,
        **initramfs.libraries(agent),
        **{f"modules/{name}.ko": path for name, path in found.modules.items()},
    }
    tools = [pathlib.Path(tool("syslinux", "syslinux")), pathlib.Path(tool("mcopy", "mtools"))]
    ours = [_HERE / name for name in ("witness.c", "build.py", "initramfs.py", "kernel.py")]
    return found, files, [found.image, *tools, *ours]


def _static_busybox() -> pathlib.Path:
    path = pathlib.Path(tool("busybox", "busybox-static"))
    if initramfs.libraries(path):
        raise RigError(f"{path} needs shared libraries: install the Debian package busybox-static")
    return path


def _digest(files: tuple[kernel.Kernel, dict[str, pathlib.Path], list[pathlib.Path]]) -> str:
    _kernel, inside, beside = files
    digest = hashlib.sha256()
    for name, path in [*sorted(inside.items()), *((path.name, path) for path in beside)]:
        digest.update(f"{name} {path.stat().st_size}\n".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _build(
    path: pathlib.Path, found: kernel.Kernel, files: dict[str, pathlib.Path], _beside: list[pathlib.Path]
) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as name:
        work = pathlib.Path(name)
        part = work / "image"
        _format(part)
        inside: dict[str, pathlib.Path | bytes] = {
            **files,
            "bin/witness": _compiled(_HERE / "witness.c", work / "witness"),
            "modules/order": "\n".join(kernel.MODULES).encode(),
        }
        executable = {name for name in inside if not name.startswith("modules/")}
        packed = gzip.compress(initramfs.archive(initramfs.entries(inside, executable)), 6, mtime=0)
        _put(
            part,
            {
                "vmlinuz": found.image.read_bytes(),
                "initrd": packed,
                "syslinux.cfg": Program().loader().encode(),
            },
        )
        _run([tool("syslinux", "syslinux"), "--install", str(part)])
        part.rename(path)


def _compiled(source: pathlib.Path, program: pathlib.Path) -> pathlib.Path:
    _run([tool("gcc", "gcc"), "-O2", "-Wall", "-static", "-s", "-o", str(program), str(source)])
    return program


def _format(path: pathlib.Path) -> None:
    with path.open("wb") as file:
        file.truncate(SIZE_BYTES)
    sectors = str(ZONE.offset // _SECTOR)
    command = [tool("mformat", "mtools"), "-i", str(path), "-T", sectors]
    _run([*command, "-h", "64", "-s", "32", "-v", "RIG", "::"])


def _put(path: pathlib.Path, contents: dict[str, bytes]) -> None:
    """Write files into the image's FAT file system, over those of the same names."""
    for name, content in contents.items():
        with tempfile.NamedTemporaryFile() as source:
            source.write(content)
            source.flush()
            _run([tool("mcopy", "mtools"), "-o", "-i", str(path), source.name, f"::{name}"])


def _run(argv: list[str]) -> None:
    environment = {**os.environ, "MTOOLS_SKIP_CHECK": "1", "MTOOLSRC": os.devnull}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        raise RigError(f"{' '.join(argv)} failed ({done.returncode})\n{done.stdout}{done.stderr}")


def forget() -> None:
    """Empty the cache."""
    shutil.rmtree(cache_directory(), ignore_errors=True)
