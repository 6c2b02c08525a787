# SPDX-License-Identifier: Apache-2.0
"""The daemon as such: from its start to READY, its memory, and how fast it ends."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from tests.bench.figures import Result
from tests.bench.names import MODULES, URI
from tests.bench.parts import Parts
from tests.rig.agent import Agent

_COMMAND = [sys.executable, "-m", "tests.bench.floor_process"]
_SETTLE_S = 1.0
#: Which modules the daemon has in the end, without its own.
_LIST = """
import sys, warnings
warnings.simplefilter("ignore")
import compute_agent.cmd.agent, compute_agent.service
from compute_agent.virt.libvirt import LibvirtDriver
for name in list(sys.modules):
    if name.partition(".")[0] not in ("compute_agent", "__main__"):
        print(name)
"""


def _modules() -> str:
    return subprocess.run(
        [sys.executable, "-c", _LIST], check=True, capture_output=True, text=True, timeout=60
    ).stdout


@contextlib.contextmanager
def _floor(parts: Parts) -> Iterator[Agent]:
    """A process that imports the same, not started yet."""
    with tempfile.NamedTemporaryFile("w", suffix=".modules") as file:
        file.write(_modules())
        file.flush()
        environment = {MODULES: file.name, URI: parts.hypervisor.uri}
        with contextlib.closing(parts.agent(qemu=True, command=_COMMAND, environment=environment)) as process:
            yield process


def start_and_end(parts: Parts, quick: bool) -> list[Result]:
    """Start to READY, memory, end."""
    start = Result(
        "start",
        "start to READY",
        "s",
        compares="libvirt driver, empty state; against a process that imports the same and connects",
    )
    memory = Result(
        "memory",
        "memory after the start",
        "MiB",
        target=1.5,
        compares=f"resident, {_SETTLE_S:.0f} s after READY; against a process that imports the same",
    )
    end = Result("end", "SIGTERM to exit, idle", "s", target=1.0, compares="the median of the rounds")
    with contextlib.closing(parts.agent(qemu=True)) as agent, _floor(parts) as floor:
        for process in (agent, floor):  # not counted: byte code and the file system's cache
            process.start()
            process.stop()
        for number in range(2 if quick else 5):
            both = (floor, agent) if number % 2 else (agent, floor)
            for process in both:
                begun, settled = _start(process)
                ended = process.stop().seconds
                mine = process is agent
                (start.ours if mine else start.floor).append(begun)
                (memory.ours if mine else memory.floor).append(settled)
                if mine:
                    end.ours.append(ended)
    return [start, memory, end]


def _start(process: Agent) -> tuple[float, float]:
    """Seconds to READY, and MiB a moment later."""
    began = time.monotonic()
    process.start()
    seconds = time.monotonic() - began
    time.sleep(_SETTLE_S)
    return seconds, process.memory_kib() / 1024
