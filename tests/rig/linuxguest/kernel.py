# SPDX-License-Identifier: Apache-2.0
"""Debian's cloud kernel and its modules, from wherever this machine can get them.

Taken from the cache, else from an installed `linux-image-*-cloud-amd64`, else fetched with `apt-get download`
and unpacked. It is not in bindep.txt on purpose: installing a kernel package changes what a machine boots.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

from tests.rig.process import RigError, tail, tool

_META_PACKAGE = "linux-image-cloud-amd64"
_SUFFIX = "-cloud-amd64"
_APT_DEADLINE_S = 240.0

#: In the order in which they have to be loaded.
MODULES = (
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
    "failover",
    "net_failover",
    "virtio_net",
    "evdev",
    "button",
    "virtio_balloon",
    "virtio_console",
)


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel: its release, its image, and the files of MODULES by name."""

    release: str
    image: pathlib.Path
    modules: dict[str, pathlib.Path]


def find(cache: pathlib.Path) -> Kernel:
    """The newest kernel at hand, fetched into `cache` if there is none. Raises RigError if that fails."""
    for root in (cache / "kernel", pathlib.Path("/")):
        found = _below(root)
        if found is not None:
            return found
    _fetch(cache / "kernel")
    found = _below(cache / "kernel")
    if found is None:
        raise RigError(f"the package {_META_PACKAGE} holds no kernel with the modules {', '.join(MODULES)}")
    return found


def _below(root: pathlib.Path) -> Kernel | None:
    """The newest kernel below a root directory that has all its modules."""
    images = sorted(root.glob(f"boot/vmlinuz-*{_SUFFIX}"), key=lambda path: _numbers(path.name))
    for image in reversed(images):
        release = image.name.removeprefix("vmlinuz-")
        modules = _modules(root, release)
        if len(modules) == len(MODULES):
            return Kernel(release, image, modules)
    return None


def _modules(root: pathlib.Path, release: str) -> dict[str, pathlib.Path]:
    for top in (root / "lib/modules", root / "usr/lib/modules"):
        there = {path.stem: path for path in (top / release).glob("kernel/**/*.ko")}
        if there:
            return {name: there[name] for name in MODULES if name in there}
    return {}


def _numbers(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]


def _fetch(directory: pathlib.Path) -> None:
    """Download the package and unpack what is needed of it to `directory`, all of it or nothing."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as name:
        work = pathlib.Path(name)
        _download(work)
        package = next(work.glob("*.deb"))
        whole = work / "whole"
        _run([tool("dpkg-deb", "dpkg"), "--extract", str(package), str(whole)], work)
        kept = work / "kept"
        for part in ("boot", "lib/modules", "usr/lib/modules"):
            if (whole / part).exists():
                (kept / part).parent.mkdir(parents=True, exist_ok=True)
                (whole / part).rename(kept / part)
        shutil.rmtree(directory, ignore_errors=True)
        kept.rename(directory)


def _download(work: pathlib.Path) -> None:
    """Lists of packages may be missing or old: root brings them up to date before a second attempt."""
    try:
        _run([tool("apt-get", "apt"), "-q", "download", _package()], work)
    except RigError:
        if os.geteuid() != 0:
            raise
        _run([tool("apt-get", "apt"), "-q", "-o", "DPkg::Lock::Timeout=200", "update"], work)
        _run([tool("apt-get", "apt"), "-q", "download", _package()], work)


def _package() -> str:
    """The name of the real package that the meta package stands for."""
    told = _run([tool("apt-cache", "apt"), "depends", "--important", _META_PACKAGE], pathlib.Path("/"))
    found = re.search(rf"Depends: (linux-image-\S+{_SUFFIX})", told)
    if found is None:
        raise RigError(f"apt knows no {_META_PACKAGE}: {told}")
    return found[1]


def _run(argv: list[str], where: pathlib.Path) -> str:
    done = subprocess.run(
        argv,
        cwd=where,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=_APT_DEADLINE_S,
    )
    if done.returncode != 0:
        raise RigError(f"{' '.join(argv)} failed ({done.returncode})\n{tail(done.stdout, 15)}")
    return done.stdout
