# SPDX-License-Identifier: Apache-2.0
"""The system around the agent: its clock and its unit."""

import ctypes
import os
import pathlib
import subprocess
from typing import Any

from compute_agent.cmd.checks.finding import Findings, good, warning

CLOCK, UNIT = "clock", "systemd"
UNIT_NAME = "compute-agent.service"
SYSTEMD = pathlib.Path("/run/systemd/system")
STATE_DIRECTORY = pathlib.Path("/var/lib/compute-agent")
TIMEX_BYTES = 512
"""More than any version of ``struct timex`` has."""
UNSYNCHRONISED = 5


def check_clock(conf: Any) -> Findings:
    """Whether the clock is set by a time service: ``expires_at`` is judged by it."""
    if _clock_state() == UNSYNCHRONISED:
        yield warning(
            CLOCK,
            "the kernel says that nobody sets the clock; what expires may expire too early or too late",
            "systemctl enable --now systemd-timesyncd (or chrony)",
        )
    else:
        yield good(CLOCK, "it is set by a time service")


def _clock_state() -> int:
    """Return what ``adjtimex(2)`` says of the clock; it changes nothing."""
    timex = ctypes.create_string_buffer(TIMEX_BYTES)
    return int(ctypes.CDLL(None, use_errno=True).adjtimex(timex))


def check_unit(conf: Any) -> Findings:
    """Whether systemd knows the agent, starts it with the host, and lets it write where it has to."""
    if not SYSTEMD.is_dir():
        yield good(UNIT, "systemd does not run here")
        return
    shown = _shown("LoadState", "UnitFileState", "ActiveState", "ReadWritePaths")
    if shown.get("LoadState") != "loaded":
        yield warning(
            UNIT, f"there is no {UNIT_NAME}", "copy systemd/compute-agent.service to /etc/systemd/system"
        )
        return
    if shown.get("UnitFileState") != "enabled":
        yield warning(UNIT, f"{UNIT_NAME} does not start with the host", f"systemctl enable {UNIT_NAME}")
    else:
        yield good(UNIT, f"{UNIT_NAME} is enabled and {shown.get('ActiveState')}")
    yield from _paths(conf, shown.get("ReadWritePaths", ""))


def _paths(conf: Any, allowed: str) -> Findings:
    open_to_it = [STATE_DIRECTORY, *(pathlib.Path(path.lstrip("-+")) for path in allowed.split())]
    for name in ("state_path", "instances_path"):
        path = pathlib.Path(os.path.abspath(conf[name]))
        if not any(path.is_relative_to(above) for above in open_to_it):
            yield warning(
                UNIT,
                f"{UNIT_NAME} can't write to {name} {path}",
                f"systemctl edit {UNIT_NAME}, and add ReadWritePaths={path}",
            )


def _shown(*properties: str) -> dict[str, str]:
    done = subprocess.run(
        ["systemctl", "show", UNIT_NAME, f"--property={','.join(properties)}"],
        capture_output=True,
        text=True,
        timeout=10,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    return dict(line.partition("=")[::2] for line in done.stdout.splitlines())
