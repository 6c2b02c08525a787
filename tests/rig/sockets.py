# SPDX-License-Identifier: Apache-2.0
"""Which TCP sockets a process listens on, read from the kernel's tables."""

from __future__ import annotations

import ipaddress
import os
import pathlib

_LISTEN = "0A"


def listening(pid: int) -> set[tuple[str, int]]:
    """The addresses and ports at which a process listens."""
    inodes = _inodes(pid)
    found = set()
    for table in ("tcp", "tcp6"):
        for line in pathlib.Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTEN and fields[9] in inodes:
                found.add(_address(fields[1]))
    return found


def _inodes(pid: int) -> set[str]:
    inodes = set()
    for entry in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(entry)
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[len("socket:[") : -1])
    return inodes


def _address(field: str) -> tuple[str, int]:
    """The kernel prints each 32-bit word of an address in the machine's byte order."""
    words, _, port = field.partition(":")
    packed = b"".join(bytes.fromhex(words[at : at + 8])[::-1] for at in range(0, len(words), 8))
    return str(ipaddress.ip_address(packed)), int(port, 16)
