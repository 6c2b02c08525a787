# SPDX-License-Identifier: Apache-2.0
"""The floor of the daemon: a process that imports what the agent imports, connects, and does no more.

`FLOOR_MODULES` names a file with the modules, one a line; `FLOOR_URI` the hypervisor.
"""

# ruff: noqa: E402 (the standard library is made green before anything else is imported)

from __future__ import annotations

import warnings

warnings.simplefilter("ignore")

import eventlet

eventlet.monkey_patch()

import contextlib
import importlib
import os
import pathlib
import signal
import socket
import sys

from tests.bench.names import MODULES, URI


def _import_all() -> None:
    for name in pathlib.Path(os.environ[MODULES]).read_text().split():
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def _connect() -> list[object]:
    import oslo_messaging
    from oslo_config import cfg

    cfg.CONF(sys.argv[1:], project="floor")
    driver = oslo_messaging.get_rpc_transport(cfg.CONF)._driver
    with driver._get_connection() as connection:
        held: list[object] = [connection.connection]
    if os.environ.get(URI):
        import libvirt

        held.append(libvirt.open(os.environ[URI]))
    return held


def main() -> None:
    """Import, connect, say so, and stay."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    _import_all()
    held = _connect()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
    while held:
        eventlet.sleep(3600)


if __name__ == "__main__":
    main()
