# SPDX-License-Identifier: Apache-2.0
"""Writes down what happens to the guests of a libvirt, in a process of its own.

Run as ``python -m tests.chaos.witness URI``. Each lifecycle event becomes a line of JSON on stdout: guest,
event and detail, in libvirt's numbers. A line on stdin is answered with ``{}`` when everything that libvirt
had told by then stands above it; the end of stdin ends it.
"""

import json
import sys
import threading
import time
from typing import Any

import libvirt

QUIET_S = 0.1
"""libvirtd sends events from a timer of its own, a moment after the answer to the call that caused them."""


class Witness:
    """Writes lifecycle events to stdout."""

    def __init__(self, uri: str) -> None:
        self._last = 0.0
        self._writing = threading.Lock()
        libvirt.virEventRegisterDefaultImpl()
        threading.Thread(target=self._turn, daemon=True).start()
        self._connection = libvirt.open(uri)
        self._connection.domainEventRegisterAny(
            None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._happened, None
        )

    def _turn(self) -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    def _happened(self, _connection: Any, domain: Any, event: int, detail: int, _opaque: Any) -> None:
        self._last = time.monotonic()
        self._write({"guest": domain.UUIDString(), "event": event, "detail": detail})

    def _write(self, line: dict[str, Any]) -> None:
        with self._writing:
            print(json.dumps(line), flush=True)

    def serve(self) -> None:
        """Answer each line of stdin."""
        self._write({})
        for _ in sys.stdin:
            asked = time.monotonic()
            self._connection.getLibVersion()
            while time.monotonic() - max(asked, self._last) < QUIET_S:
                time.sleep(QUIET_S / 5)
            self._write({})


if __name__ == "__main__":
    Witness(sys.argv[1]).serve()
