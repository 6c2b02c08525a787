# SPDX-License-Identifier: Apache-2.0
"""What each member does to a guest in each power state: one table, for every driver alike.

A row says from which power state, by which member, through which events, to which power state; or which error
is raised, and then nothing happens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.model.states import PowerState
from compute_agent.virt.driver import ComputeDriver

RUNNING, PAUSED, SHUTDOWN = PowerState.RUNNING, PowerState.PAUSED, PowerState.SHUTDOWN
SUSPENDED, CRASHED = PowerState.SUSPENDED, PowerState.CRASHED
GONE = None
"""After destroy there is no guest."""

Act = Callable[[ComputeDriver, Instance], Any]

ACTS: dict[str, Act] = {
    "pause": lambda d, i: d.pause(i),
    "unpause": lambda d, i: d.unpause(i),
    "suspend": lambda d, i: d.suspend(None, i),
    "resume": lambda d, i: d.resume(None, i, i.network_info),
    "power_on": lambda d, i: d.power_on(None, i, i.network_info),
    "power_off": lambda d, i: d.power_off(i),
    "power_off gently": lambda d, i: d.power_off(i, timeout=5, retry_interval=1),
    "reboot SOFT": lambda d, i: d.reboot(None, i, i.network_info, "SOFT"),
    "reboot HARD": lambda d, i: d.reboot(None, i, i.network_info, "HARD"),
    "soft_delete": lambda d, i: d.soft_delete(i),
    "restore": lambda d, i: d.restore(i),
    "destroy": lambda d, i: d.destroy(None, i, i.network_info),
    "resume_state_on_host_boot": lambda d, i: d.resume_state_on_host_boot(None, i, i.network_info),
}


@dataclass(frozen=True)
class Row:
    """One row; its name is the test's id."""

    start: PowerState
    act: str
    events: tuple[str, ...]
    end: PowerState | None
    error: type[errors.ComputeError] | None = None

    def __str__(self) -> str:
        return f"{self.act} of {self.start.name}"


def refused(start: PowerState, act: str) -> Row:
    return Row(start, act, (), start, errors.InvalidState)


def _off(act: str) -> list[Row]:
    """What switches off: told if the guest was up; what is suspended or off goes without a word."""
    return [
        Row(RUNNING, act, ("Stopped",), SHUTDOWN),
        Row(PAUSED, act, ("Stopped",), SHUTDOWN),
        Row(SUSPENDED, act, (), SHUTDOWN),
        Row(SHUTDOWN, act, (), SHUTDOWN),
    ]


def _on(act: str) -> list[Row]:
    return [
        Row(RUNNING, act, (), RUNNING),
        Row(PAUSED, act, (), PAUSED),
        Row(SHUTDOWN, act, ("Started",), RUNNING),
        Row(CRASHED, act, ("Started",), RUNNING),
    ]


def _again(act: str) -> list[Row]:
    return [
        Row(RUNNING, act, ("Stopped", "Started"), RUNNING),
        Row(PAUSED, act, ("Stopped", "Started"), RUNNING),
        Row(SUSPENDED, act, ("Started",), RUNNING),
        Row(SHUTDOWN, act, ("Started",), RUNNING),
        Row(CRASHED, act, ("Started",), RUNNING),
    ]


ROWS: list[Row] = [
    Row(RUNNING, "pause", ("Paused",), PAUSED),
    Row(PAUSED, "pause", (), PAUSED),
    refused(SHUTDOWN, "pause"),
    refused(SUSPENDED, "pause"),
    Row(PAUSED, "unpause", ("Resumed",), RUNNING),
    Row(RUNNING, "unpause", (), RUNNING),
    refused(SHUTDOWN, "unpause"),
    refused(SUSPENDED, "unpause"),
    Row(RUNNING, "suspend", ("Suspended",), SUSPENDED),
    Row(PAUSED, "suspend", ("Suspended",), SUSPENDED),
    Row(SUSPENDED, "suspend", (), SUSPENDED),
    refused(SHUTDOWN, "suspend"),
    Row(SUSPENDED, "resume", ("Resumed",), RUNNING),
    Row(RUNNING, "resume", (), RUNNING),
    refused(PAUSED, "resume"),
    refused(SHUTDOWN, "resume"),
    *_on("power_on"),
    refused(SUSPENDED, "power_on"),
    *_on("restore"),
    *_on("resume_state_on_host_boot"),
    Row(SUSPENDED, "resume_state_on_host_boot", ("Resumed",), RUNNING),
    *_off("power_off"),
    *_off("power_off gently"),
    *_off("soft_delete"),
    *_again("reboot SOFT"),
    *_again("reboot HARD"),
    Row(RUNNING, "destroy", ("Stopped",), GONE),
    Row(PAUSED, "destroy", ("Stopped",), GONE),
    Row(SUSPENDED, "destroy", (), GONE),
    Row(SHUTDOWN, "destroy", (), GONE),
    Row(CRASHED, "destroy", (), GONE),
]

REACHED: dict[PowerState, tuple[str, ...]] = {
    RUNNING: (),
    PAUSED: ("pause",),
    SUSPENDED: ("suspend",),
    SHUTDOWN: ("power_off",),
}
"""The acts by which a guest that was just spawned comes into a power state. A test crashes it itself."""
