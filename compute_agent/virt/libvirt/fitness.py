# SPDX-License-Identifier: Apache-2.0
"""Whether this host is fit to run guests: the findings of ``verify``, each with its remedy.

The functions here only look, and run in native threads.
"""

import dataclasses
import os
import shutil
import stat
from collections.abc import Iterator

import libvirt

from compute_agent.virt.info import Problem
from compute_agent.virt.libvirt.config import element

LEAST_LIBVIRT = (8, 0, 0)
LEAST_QEMU = (6, 2, 0)
KVM = "/dev/kvm"
_VIRTLOGD = "/run/libvirt/virtlogd-sock"


@dataclasses.dataclass(frozen=True)
class Versions:
    """Of libvirtd and QEMU, and of the library that we are linked with."""

    libvirt: tuple[int, ...]
    qemu: tuple[int, ...]
    library: tuple[int, ...]


def versions(connection: libvirt.virConnect) -> Versions:
    """Ask for the versions."""
    return Versions(
        _parts(connection.getLibVersion()), _parts(connection.getVersion()), _parts(libvirt.getVersion())
    )


def _parts(number: int) -> tuple[int, ...]:
    return number // 1_000_000, number // 1000 % 1000, number % 1000


def check_versions(found: Versions) -> Iterator[Problem]:
    """Yield what is too old."""
    for name, version, least in (("libvirt", found.libvirt, LEAST_LIBVIRT), ("QEMU", found.qemu, LEAST_QEMU)):
        if version < least:
            yield Problem(
                message=f"{name} {_dotted(version)} is older than {_dotted(least)}",
                remedy=f"upgrade {name}",
                severity="warning",
            )


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)


@dataclasses.dataclass(frozen=True)
class QemuUser:
    """Whom libvirt runs QEMU as."""

    uid: int
    gid: int

    def may(self, path: str, wanted: int) -> bool:
        """Return whether this user has the rights ``wanted`` (bits of ``r w x``) by the mode of ``path``."""
        if self.uid == 0:
            return True
        found = os.stat(path)
        shift = 6 if found.st_uid == self.uid else 3 if found.st_gid == self.gid else 0
        return (stat.S_IMODE(found.st_mode) >> shift) & wanted == wanted


def qemu_user(capabilities: str) -> QemuUser | None:
    """Return the user that libvirt's capabilities name; None for a session daemon, which has only one."""
    for model in element.parse(capabilities).findall("host/secmodel"):
        label = model.findtext("baselabel") or ""
        if model.findtext("model") == "dac" and label.count(":") == 1:
            uid, gid = label.split(":")
            return QemuUser(int(uid.lstrip("+")), int(gid.lstrip("+")))
    return None


def check_kvm(user: QemuUser | None, virt_type: str) -> Iterator[Problem]:
    """Yield what is wrong with ``/dev/kvm``."""
    if not os.path.exists(KVM):
        if virt_type == "kvm":
            yield Problem(
                message=f"{KVM} is missing",
                remedy="load kvm_intel or kvm_amd, see the firmware's settings, or set virt_type = qemu",
            )
        return
    if user is not None and not user.may(KVM, 0o6):
        yield Problem(
            message=f"{KVM} can't be opened by QEMU's user (uid {user.uid}): "
            "libvirt then probes QEMU again at every start of a guest, which takes minutes",
            remedy=f"chmod 0666 {KVM} (or give it to that user's group) and restart libvirtd",
            severity="error" if virt_type == "kvm" else "warning",
        )


def check_storage(instances_path: str, user: QemuUser | None) -> Iterator[Problem]:
    """Yield what keeps the agent or QEMU from the instances' files."""
    try:
        os.makedirs(instances_path, mode=0o755, exist_ok=True)
    except OSError as error:
        yield Problem(
            message=f"instances_path {instances_path}: {error.strerror}", remedy="make the directory"
        )
        return
    if not os.access(instances_path, os.W_OK | os.X_OK):
        yield Problem(
            message=f"the agent can't write to instances_path {instances_path}",
            remedy="give the directory to the agent's user",
        )
    shut = [path for path in _parents(instances_path) if user is not None and not user.may(path, 0o1)]
    if shut:
        yield Problem(
            message=f"QEMU's user (uid {user.uid if user else 0}) can't pass through {', '.join(shut)}",
            remedy=f"chmod o+x {' '.join(shut)}",
        )


def _parents(path: str) -> Iterator[str]:
    while path != os.path.dirname(path):
        yield path
        path = os.path.dirname(path)


def check_tools(root: str) -> Iterator[Problem]:
    """Yield what is not installed or does not run.

    :param root: libvirtd's root directory, as this process can reach it
    """
    if shutil.which("qemu-img", path="/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin") is None:
        yield Problem(message="qemu-img is missing", remedy="install qemu-utils")
    if root and not os.path.exists(root + _VIRTLOGD):
        yield Problem(
            message="virtlogd's socket is missing: consoles are not kept",
            remedy="systemctl enable --now virtlogd.socket",
            severity="warning",
        )
