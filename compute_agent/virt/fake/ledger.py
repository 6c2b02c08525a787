# SPDX-License-Identifier: Apache-2.0
"""The file that outlives the agent: what happened on the fake hypervisor, line by line.

Append-only, one JSON object per line, each written by a single ``write`` to a file opened with
``O_APPEND``: a process that is killed leaves whole lines, and others may append their own. Not
synced: it has to survive the process, not the machine.
"""

import logging
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

LOG = logging.getLogger(__name__)


class Ledger:
    """One ledger file, made if it is not there.

    :param path: where it is
    :raises OSError: if it can't be opened
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._writer = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._reader = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._read_to = 0
        self._own = secrets.token_hex(8)
        self._mark = f'"by":"{self._own}"'.encode()
        self._encode = msgspec.json.Encoder().encode

    def write(self, effect: str, uuid: str | None, parts: Mapping[str, Any]) -> None:
        """Append what happened, with the machine's monotonic time in ns: so ledgers can be put in order.

        :raises OSError: if it can't be written, such as on a full disk
        """
        now = time.monotonic_ns()
        line = self._encode({"by": self._own, "at": now, "effect": effect, "guest": uuid, "set": parts})
        os.write(self._writer, line + b"\n")

    def replay(self) -> Iterator[dict[str, Any]]:
        """Return every line that is there now, by whomever. What can't be read is logged and left out."""
        yield from map(self._decoded, self._new_lines())

    def poll(self) -> Iterator[dict[str, Any]]:
        """Return the lines that others have appended since the last look."""
        if os.fstat(self._reader).st_size > self._read_to:
            yield from (self._decoded(line) for line in self._new_lines() if self._mark not in line)

    def close(self) -> None:
        """Let go of the file. Repeating it is harmless."""
        for descriptor in (self._writer, self._reader):
            if descriptor >= 0:
                os.close(descriptor)
        self._writer = self._reader = -1

    def _new_lines(self) -> list[bytes]:
        size = os.fstat(self._reader).st_size
        text = os.pread(self._reader, size - self._read_to, self._read_to)
        whole = text.rfind(b"\n") + 1
        self._read_to += whole
        return text[:whole].splitlines()

    def _decoded(self, line: bytes) -> dict[str, Any]:
        try:
            found = msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.DecodeError as error:
            LOG.warning("%s: a line can't be read: %s", self.path, error)
            return {}
        return found
