# SPDX-License-Identifier: Apache-2.0
"""Whether libvirtd has decided already that a guest was handed over, a moment before it says so.

At the end of a transfer the destination's libvirtd tells the source's that all of it arrived. The source's
writes that down (phase ``confirm3`` of the job in its status file), ends its QEMU, and calls the guest off.
It looks only every 200 ms whether a QEMU has ended, and all that time the guest stands still.

What stands in the status file binds libvirtd: one that is killed now and started again ends that QEMU too,
and nothing else leads on from there. So the phase proves as much as the state that follows. Invariant: what
can't be read or is not understood proves nothing; then the state is waited for. In native threads.
"""

import os
import re

_STATUS_DIRECTORY = "/run/libvirt/qemu"
_LIMIT = 4 * 1024 * 1024
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")
_JOB = re.compile(rb"<job\s(?P<attributes>[^<>]*)/?>")
_ATTRIBUTE = re.compile(rb"(\w+)='([^']*)'")
_HANDED_OVER = {b"async": b"migration out", b"phase": b"confirm3"}


def is_certain(name: str, uuid: str, directory: str = _STATUS_DIRECTORY) -> bool:
    """Return whether libvirtd is bound to end the guest here because it arrived elsewhere.

    :param name: of the domain
    """
    found = _read(os.path.join(directory, f"{name}.xml")) if _NAME.fullmatch(name) else b""
    head, domain, rest = found.partition(b"<domain ")
    job = _JOB.search(head)
    if job is None or not domain or f"<uuid>{uuid}</uuid>".encode() not in rest:
        return False
    attributes = dict(_ATTRIBUTE.findall(job["attributes"]))
    return all(attributes.get(key) == value for key, value in _HANDED_OVER.items())


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            found = file.read(_LIMIT)
    except OSError:
        return b""
    return found if found.rstrip().endswith(b"</domstatus>") else b""
