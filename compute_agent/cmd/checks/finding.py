# SPDX-License-Identifier: Apache-2.0
"""What a check found, and how checks are run."""

import dataclasses
import enum
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


class Level(enum.IntEnum):
    """How bad it is. The worst is the command's exit status."""

    OK = 0
    WARNING = 1
    ERROR = 2


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    :ivar about: what was looked at
    :ivar message: what was seen
    :ivar remedy: what to do about it; empty when all is well
    """

    level: Level
    about: str
    message: str
    remedy: str = ""


Findings = Iterator[Finding]
Check = Callable[[Any], Findings]
"""Given the options, as the agent would read them."""


class Late(Exception):
    """Something did not come back in time."""


def good(about: str, message: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(Level.OK, about, message)


def warning(about: str, message: str, remedy: str) -> Finding:
    """Return a finding with which the agent runs, but not as it should."""
    return Finding(Level.WARNING, about, message, remedy)


def error(about: str, message: str, remedy: str) -> Finding:
    """Return a finding with which the agent does not run, or has no guests."""
    return Finding(Level.ERROR, about, message, remedy)


def run(about: str, check: Check, conf: Any) -> Findings:
    """Yield what ``check`` finds; if it fails itself, that is a finding, too."""
    try:
        yield from check(conf)
    except Exception as failure:
        yield error(about, f"can't be checked: {type(failure).__name__}: {failure}", "look at it by hand")


def within(seconds: float, function: Callable[[], T]) -> T:
    """Return what ``function`` does, if it comes back within ``seconds``.

    :raises Late: if it does not; its thread is left alone
    """
    came: list[T] = []
    failed: list[BaseException] = []

    def call() -> None:
        try:
            came.append(function())
        except BaseException as failure:
            failed.append(failure)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    if failed:
        raise failed[0]
    if not came:
        raise Late(f"no answer within {seconds:g} s")
    return came[0]
