# SPDX-License-Identifier: Apache-2.0
"""What goes wrong on the fake hypervisor, and where.

A *point* is a member (``pause``), a step of one (``spawn.start``) or the undoing of a step
(``spawn.start.undo``). A fault fails there, hangs there (until the running work's deadline or
cancellation, or until it is released), or takes its time there first.
"""

import dataclasses
from collections.abc import Iterable

from compute_agent import concurrency, steps
from compute_agent.model import errors

FAIL, HANG, SLOW = "fail", "hang", "slow"


@dataclasses.dataclass
class Fault:
    """One fault.

    :param seconds: how long it hangs or takes; None: for ever
    :param left: how often it still happens; None: always
    :param instance: the uuid of the only instance that it concerns; None: every one
    """

    point: str
    action: str
    error: type[errors.ComputeError] = errors.HypervisorError
    seconds: float | None = None
    left: int | None = None
    instance: str | None = None
    released: concurrency.Event = dataclasses.field(default_factory=concurrency.Event)

    def concerns(self, point: str, instance: str | None) -> bool:
        """Return whether it happens at this point, to this instance."""
        return self.point == point and self.left != 0 and self.instance in (None, instance)


class Faults:
    """The faults that are armed. Without any, a point costs one look at an empty list."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._faults: list[Fault] = []
        self._reached: dict[str, concurrency.Event] = {}
        for text in texts:
            self.arm(text)

    @property
    def armed(self) -> bool:
        """Whether there is any fault, or anybody who waits for a point to be reached."""
        return bool(self._faults or self._reached)

    # --- arming --------------------------------------------------------------------------------------

    def fail(
        self,
        point: str,
        error: type[errors.ComputeError] = errors.HypervisorError,
        *,
        times: int | None = None,
        instance: str | None = None,
    ) -> Fault:
        """Fail with ``error`` at ``point``."""
        return self._add(Fault(point, FAIL, error, left=times, instance=instance))

    def hang(
        self,
        point: str,
        seconds: float | None = None,
        *,
        times: int | None = None,
        instance: str | None = None,
    ) -> Fault:
        """Hang at ``point``, as long as the running work may, or for ``seconds``."""
        return self._add(Fault(point, HANG, seconds=seconds, left=times, instance=instance))

    def slow(
        self, point: str, seconds: float, *, times: int | None = None, instance: str | None = None
    ) -> Fault:
        """Take ``seconds`` longer at ``point``."""
        return self._add(Fault(point, SLOW, seconds=seconds, left=times, instance=instance))

    def arm(self, text: str) -> Fault:
        """Arm what a text names: ``POINT=fail[:ERROR] | hang[:SECONDS] | slow:SECONDS``, then ``*TIMES``.

        :raises ValueError: if it is not of that form
        """
        point, equals, action = (part.strip() for part in text.partition("="))
        action, star, times = action.partition("*")
        kind, _, argument = action.strip().partition(":")
        if not (point and equals and kind in (FAIL, HANG, SLOW)) or (kind == SLOW and not argument):
            raise ValueError(f"not POINT=fail[:ERROR], hang[:SECONDS] or slow:SECONDS: {text}")
        fault = Fault(point, kind, left=int(times) if star else None)
        if kind != FAIL:
            fault.seconds = float(argument) if argument else None
        elif argument:
            if argument not in errors.ComputeError.by_code:
                raise ValueError(f"no such error: {argument}")
            fault.error = errors.ComputeError.by_code[argument]
        return self._add(fault)

    def release(self, point: str | None = None) -> None:
        """Strike the faults of ``point`` (all of them, without one); what hangs there goes on."""
        for fault in [f for f in self._faults if point in (None, f.point)]:
            self._faults.remove(fault)
            fault.released.set()

    def reached(self, point: str) -> concurrency.Event:
        """Return an event that is set when something comes to ``point`` from now on."""
        return self._reached.setdefault(point, concurrency.Event())

    def _add(self, fault: Fault) -> Fault:
        self._faults.append(fault)
        return fault

    # --- happening -----------------------------------------------------------------------------------

    def hit(self, point: str, instance: str | None = None) -> None:
        """Do what is armed for ``point``.

        :raises ComputeError: the error of a ``fail``
        :raises Cancelled, Timeout: of the running work, while it hangs or is slow
        """
        if (reached := self._reached.pop(point, None)) is not None:
            reached.set()
        for fault in list(self._faults):
            if fault.concerns(point, instance):
                self._happen(fault)

    def _happen(self, fault: Fault) -> None:
        if fault.left is not None:
            fault.left -= 1
        if fault.action == FAIL:
            raise fault.error(f"fault at {fault.point}")
        steps.current().wait(fault.released, fault.seconds)
