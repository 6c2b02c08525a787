# SPDX-License-Identifier: Apache-2.0
"""Named places where a test can make the agent fail.

``COMPUTE_AGENT_FAILPOINTS`` holds ``name=action`` pairs, separated by ``;``. Actions:
``kill`` (SIGKILL to oneself), ``raise`` or ``raise:CODE`` (an error of :mod:`model.errors`), ``hang``
(for an hour, or until the running operation is over), ``delay:SECONDS``. Behind an action, ``@K`` lets the
point pass K - 1 times first, and then ``*N`` lets it happen only N times. Disarmed, a point costs one look at
an empty dictionary.
"""

import dataclasses
import os
import signal
import time
from collections.abc import Callable

from compute_agent import concurrency
from compute_agent.model import errors

VARIABLE = "COMPUTE_AGENT_FAILPOINTS"
HANG_S = 3600.0
HANG_POLL_S = 0.02


@dataclasses.dataclass
class _Action:
    kind: str
    argument: str
    left: int | None
    passes: int = 0


_armed: dict[str, _Action] = {}
_observer: list[Callable[[str], None]] = []
_may_go_on: list[Callable[[], object]] = []


def hit(name: str) -> None:
    """Do what is armed for ``name``; usually nothing."""
    if _observer:
        _observer[0](name)
    if _armed and (action := _armed.get(name)) is not None:
        _perform(name, action)


def arm(text: str) -> None:
    """Arm the points that ``text`` names, and only those.

    :raises ValueError: if ``text`` is not of the form above
    """
    _armed.clear()
    for part in filter(None, (p.strip() for p in text.split(";"))):
        name, separator, action = part.partition("=")
        if not separator or not action:
            raise ValueError(f"not NAME=ACTION: {part}")
        _armed[name] = _parse(action)


def arm_from_environment() -> None:
    """Arm what :data:`VARIABLE` names."""
    arm(os.environ.get(VARIABLE, ""))


def observe(observer: Callable[[str], None] | None) -> None:
    """Tell ``observer`` the name of every point that is passed (None: no more)."""
    _observer[:] = [observer] if observer else []


def while_hanging(check: Callable[[], object]) -> None:
    """Call ``check`` again and again while a point hangs: what it raises ends that. For :mod:`steps`."""
    _may_go_on[:] = [check]


def _parse(action: str) -> _Action:
    action, star, times = action.partition("*")
    action, _, nth = action.partition("@")
    kind, _, argument = action.partition(":")
    if kind not in ("kill", "raise", "hang", "delay"):
        raise ValueError(f"unknown action: {kind}")
    return _Action(kind, argument, int(times) if star else None, int(nth or 1) - 1)


def _perform(name: str, action: _Action) -> None:
    if action.passes > 0:
        action.passes -= 1
        return
    if action.left is not None:
        if action.left <= 0:
            return
        action.left -= 1
    if action.kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action.kind == "raise":
        kind = errors.ComputeError.by_code.get(action.argument or "Internal", errors.Internal)
        raise kind(f"failpoint {name}")
    elif action.kind == "hang":
        _hang()
    else:
        concurrency.sleep(float(action.argument or HANG_S))


def _hang() -> None:
    """Polls, since the point may be in a native thread, which can't wait for the hub's events."""
    ends = time.monotonic() + HANG_S
    while time.monotonic() < ends:
        for check in _may_go_on:
            check()
        concurrency.sleep(HANG_POLL_S)
