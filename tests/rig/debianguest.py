# SPDX-License-Identifier: Apache-2.0
"""A real Debian with cloud-init: made once (a few minutes), kept in the user's cache by a hash of its recipe.

It is bootstrapped into a directory, brought to its first boot's state, and written to an ext4 image without a
mount. A guest boots it by its own kernel and initrd, which lie beside the image. Invariants: what is in the
cache is whole (its directory gets its name last) and nobody writes to it; several processes that want it at
once build it once. Only root can build it (debootstrap changes its root).
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import pathlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator

from tests.rig.linuxguest.build import cache_directory
from tests.rig.process import RigError, tail, tool

SUITE = "bookworm"
PACKAGES = (
    "systemd-sysv",
    "python3-cffi-backend",
    "cloud-init",
    "linux-image-cloud-amd64",
    "udev",
    "dbus",
    "iproute2",
    "qemu-guest-agent",
    "ifupdown",
)
CMDLINE = "root=/dev/vda console=ttyS0 quiet mitigations=off no_timer_check"
SIZE_MIB = 1024
_FILES = {
    "etc/fstab": "/dev/vda / ext4 errors=remount-ro 0 1\n",
    "etc/hostname": "unnamed\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/cloud/cloud.cfg.d/90-rig.cfg": (
        "datasource_list: [ ConfigDrive, NoCloud, None ]\n"
        "locale: C.UTF-8\n"
        "apt: { preserve_sources_list: true }\n"
        "package_update: false\n"
        "ssh_genkeytypes: []\n"
        "cloud_init_modules: [ write-files, set_hostname, update_hostname, users-groups, ssh ]\n"
        "cloud_config_modules: []\n"
        "cloud_final_modules: [ scripts-user ]\n"
    ),
}
_NEEDLESS = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale")
_MASKED = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "serial-getty@ttyS0.service",
)
_KEEP_S = 30 * 24 * 3600.0
_BOOTSTRAP_DEADLINE_S = 1500.0


@dataclasses.dataclass(frozen=True)
class Debian:
    """The files of the guest: a qcow2 image, and what boots it."""

    directory: pathlib.Path

    @property
    def image(self) -> pathlib.Path:
        return self.directory / "disk.qcow2"

    @property
    def kernel(self) -> pathlib.Path:
        return self.directory / "vmlinuz"

    @property
    def ramdisk(self) -> pathlib.Path:
        return self.directory / "initrd.img"

    def placed(self, directory: pathlib.Path) -> Debian:
        """The same files in another directory: one that an agent takes images from."""
        target = directory / self.directory.name
        with contextlib.suppress(FileExistsError):
            target.mkdir()
            for path in (self.image, self.kernel, self.ramdisk):
                command = ["cp", "--sparse=always", "--reflink=auto", str(path), str(target)]
                subprocess.run(command, check=True, capture_output=True, timeout=300)
        return Debian(target)


def find() -> Debian:
    """The guest in the cache, made if need be. Raises RigError naming what is missing."""
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / "debian.lock"):
        path = cache / f"debianguest-{_digest()}"
        if not path.exists():
            _forget_old(cache)
            with tempfile.TemporaryDirectory(dir=cache, prefix="making-") as work:
                tree = pathlib.Path(work) / "tree"
                bootstrap(tree)
                pack(tree, pathlib.Path(work) / "made").rename(path)
        os.utime(path)
        return Debian(path)


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _digest() -> str:
    """The recipe is this module."""
    return hashlib.sha256(pathlib.Path(__file__).read_bytes()).hexdigest()[:16]


def _forget_old(cache: pathlib.Path) -> None:
    for path in cache.glob("debianguest-*"):
        if time.time() - path.stat().st_mtime > _KEEP_S:
            shutil.rmtree(path, ignore_errors=True)


def bootstrap(tree: pathlib.Path) -> None:
    """Install Debian into a directory."""
    if os.geteuid() != 0:
        raise RigError("only root can build the Debian guest")
    command = [tool("debootstrap", "debootstrap"), "--variant=minbase", f"--include={','.join(PACKAGES)}"]
    _run([*command, SUITE, str(tree)], _BOOTSTRAP_DEADLINE_S)


def pack(tree: pathlib.Path, made: pathlib.Path) -> pathlib.Path:
    """Write the guest's files from an installed tree to the directory `made`."""
    made.mkdir()
    _settle(tree)
    raw = made / "disk.raw"
    with raw.open("wb") as file:
        file.truncate(SIZE_MIB * 2**20)
    _run([tool("mke2fs", "e2fsprogs"), "-q", "-t", "ext4", "-d", str(tree), str(raw)], 300)
    debian = Debian(made)
    command = [tool("qemu-img", "qemu-utils"), "convert", "-f", "raw", "-O", "qcow2"]
    _run([*command, str(raw), str(debian.image)], 300)
    raw.unlink()
    for target in (debian.kernel, debian.ramdisk):
        (found,) = (tree / "boot").glob(f"{target.name}-*")
        shutil.copyfile(found, target)
    return made


def _settle(tree: pathlib.Path) -> None:
    """Bring a fresh installation to the state in which an image has its first boot."""
    for name, text in _FILES.items():
        (tree / name).write_text(text)
    (tree / "etc/machine-id").write_text("")
    for name in _NEEDLESS:
        shutil.rmtree(tree / name, ignore_errors=True)
    for name in _MASKED:
        with contextlib.suppress(FileExistsError):
            (tree / "etc/systemd/system" / name).symlink_to(os.devnull)


def _run(argv: list[str], timeout: float) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout)
    if done.returncode != 0:
        raise RigError(
            f"{' '.join(argv)} failed ({done.returncode})\n{tail(done.stdout)}\n{tail(done.stderr)}"
        )
