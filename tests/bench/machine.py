# SPDX-License-Identifier: Apache-2.0
"""The machine that figures come from: without it a figure says little."""

from __future__ import annotations

import datetime
import os
import pathlib
import platform
import statistics
import subprocess
import time
from importlib import metadata
from typing import Any

from tests.rig import scratch
from tests.rig.broker import Broker
from tests.rig.hypervisor import Hypervisor, bindings

_LIBRARIES = ("oslo.messaging", "oslo.service", "eventlet", "amqp", "msgspec", "libvirt-python")
_SYNCS = 30


def facts() -> dict[str, Any]:
    """What can be told without starting anything."""
    return {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": f"{os.cpu_count()} x {_cpu()}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // 2**20} MiB",
        "kernel": platform.release(),
        "load": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "fsync": f"{_fsync_ms():.2f} ms (median of {_SYNCS})",
        "python": platform.python_version(),
        "libraries": ", ".join(f"{name} {_version(name)}" for name in _LIBRARIES),
        "revision": _revision(),
    }


def of_hypervisor(hypervisor: Hypervisor) -> dict[str, Any]:
    """Versions of libvirt and QEMU."""
    connection = bindings().open(hypervisor.uri)
    try:
        found = {"libvirt": connection.getLibVersion(), "QEMU": connection.getVersion()}
    finally:
        connection.close()
    return {"hypervisor": ", ".join(f"{name} {_dotted(number)}" for name, number in found.items())}


def of_broker(broker: Broker) -> dict[str, Any]:
    """RabbitMQ's version."""
    return {"broker": f"RabbitMQ {broker.ctl('version').strip()}"}


def _dotted(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


def _cpu() -> str:
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "?"


def _revision() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    here = pathlib.Path(__file__).parent
    told = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    return told.stdout.strip() or "unknown"


def _fsync_ms() -> float:
    """How long the disk takes for one small durable write, where the state files will be."""
    directory = scratch.make("ca-sync-")
    times = []
    try:
        with (directory / "file").open("wb") as file:
            for _ in range(_SYNCS):
                began = time.perf_counter()
                file.write(b"x" * 4096)
                file.flush()
                os.fdatasync(file.fileno())
                times.append((time.perf_counter() - began) * 1000)
    finally:
        (directory / "file").unlink()
        directory.rmdir()
    return statistics.median(times)
