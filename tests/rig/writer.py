# SPDX-License-Identifier: Apache-2.0
"""A Linux guest that writes to its file system (ext4, mounted) all the time, with QEMU's guest agent in it.

It boots a kernel and a ramdisk that are given to the instance, so its root disk is nothing but the file
system, which this machine's own e2fsck can judge. Kernel and programs are those of `tests.rig.linuxguest`.
"""

from __future__ import annotations

import dataclasses
import gzip
import pathlib
import re
import shutil
import subprocess

from tests.rig.linuxguest import initramfs, kernel
from tests.rig.linuxguest.build import cache_directory
from tests.rig.process import tool

MIB = 2**20
_INIT = """#!/bin/busybox sh
bb=/bin/busybox
$bb mkdir -p /proc /sys /dev /tmp /var/run /run /etc /mnt
$bb mount -t proc proc /proc
$bb mount -t sysfs sys /sys
$bb mount -t devtmpfs dev /dev 2>/dev/null
$bb --install -s /bin
export PATH=/bin:/sbin
say() { echo "writer $*" >/dev/ttyS0; }
for module in $(cat /modules/order); do insmod "/modules/$module.ko"; done
for try in $(seq 50); do [ -b /dev/vda ] && break; sleep 0.1; done
mount -t ext4 /dev/vda /mnt && say mounted
dmesg | grep -q 'EXT4-fs.*recovery complete' && say recovered
write() {
    n=0
    while :; do
        n=$((n + 1))
        dd if=/dev/urandom of="/mnt/blob-$((n % 16))" bs=16k count=4 2>/dev/null
        echo "line $n" >>"/mnt/log-$((n % 40))"
        rm -f "/mnt/log-$(((n + 7) % 40))"
        say "wrote $n"
    done
}
write &
for try in $(seq 50); do
    for port in /sys/class/virtio-ports/*; do
        [ "$(cat "$port/name" 2>/dev/null)" = org.qemu.guest_agent.0 ] && found=/dev/${port##*/}
    done
    [ -n "$found" ] && break
    sleep 0.1
done
say "agent $found"
while :; do
    qemu-ga -m virtio-serial -p "$found" -t /var/run -f /var/run/qga.pid >/tmp/qga.log 2>&1
    sleep 1
done
"""


@dataclasses.dataclass(frozen=True)
class Writer:
    """The files of the guest: kernel, ramdisk, and a root disk of its own."""

    kernel: pathlib.Path
    ramdisk: pathlib.Path
    disk: pathlib.Path

    def described(self, **properties: str) -> dict[str, object]:
        """How `spawn` names them; the image has these properties beside the guest agent."""
        known = {"hw_qemu_guest_agent": "yes", **properties}
        return {
            "image": {"url": self.disk.as_uri(), "disk_format": "raw", "properties": known},
            "kernel": self.kernel.as_uri(),
            "ramdisk": self.ramdisk.as_uri(),
            "cmdline": "console=ttyS0 quiet loglevel=5 panic=1 mitigations=off no_timer_check",
            "flavor": {"vcpus": 1, "memory_mb": 192, "root_gb": 0},
        }


def writer(directory: pathlib.Path) -> Writer:
    """Make the guest's files in a directory, from which agents may take images."""
    found = kernel.find(cache_directory())
    made = Writer(*(directory / f"writer.{name}" for name in ("kernel", "ramdisk", "raw")))
    shutil.copyfile(found.image, made.kernel)
    made.ramdisk.write_bytes(gzip.compress(_archive(found), 1, mtime=0))
    with made.disk.open("wb") as file:
        file.truncate(32 * MIB)
    _run(tool("mke2fs", "e2fsprogs"), "-q", "-t", "ext4", "-F", str(made.disk))
    return made


def _archive(found: kernel.Kernel) -> bytes:
    agent = pathlib.Path(tool("qemu-ga", "qemu-guest-agent"))
    files: dict[str, pathlib.Path | bytes] = {
        "init": _INIT.encode(),
        "bin/busybox": pathlib.Path(tool("busybox", "busybox-static")),
        "sbin/qemu-ga": agent,
        **initramfs.libraries(agent),
        **{f"modules/{name}.ko": path for name, path in found.modules.items()},
        "modules/order": "\n".join(kernel.MODULES).encode(),
    }
    executable = {name for name in files if not name.startswith("modules/")}
    return initramfs.archive(initramfs.entries(files, executable))


def is_clean(raw: pathlib.Path) -> bool:
    """Whether the file system in a raw image was in good order when it was taken: no journal to replay."""
    told = _run(tool("dumpe2fs", "e2fsprogs"), "-h", str(raw))
    features = re.search(r"^Filesystem features:(.*)$", told, re.MULTILINE)
    assert features is not None
    return "needs_recovery" not in features[1].split()


def is_consistent(raw: pathlib.Path) -> bool:
    """Whether e2fsck finds nothing to mend in it, once its journal was replayed."""
    copy = raw.with_name(f"{raw.name}.replayed")
    shutil.copyfile(raw, copy)
    try:
        program = tool("e2fsck", "e2fsprogs")
        subprocess.run([program, "-E", "journal_only", "-p", str(copy)], capture_output=True, timeout=60)
        looked = subprocess.run([program, "-f", "-n", str(copy)], capture_output=True, timeout=60)
        return looked.returncode == 0
    finally:
        copy.unlink()


def _run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout
