# SPDX-License-Identifier: Apache-2.0
"""The gateway to libvirt: every call goes through here.

* Calls run in native threads, of two pools: *calls* for what does not touch a guest's monitor,
  *guests* for what may hang on a guest. A call that is over its time is given up.
* While libvirt is away a verb waits for it until its deadline, a question only for a moment. One
  greenthread reconnects; what was registered is registered again.
* A call that was cut off is made again once libvirt is back. So whatever is called must be
  harmless to repeat: it looks at the state first.
* libvirt's errors come out as ours.

Native objects (connections, domains) stay in the functions that are handed in.
"""

import functools
import logging
import time
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import libvirt

from compute_agent import concurrency, steps
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.virt.libvirt import faults
from compute_agent.virt.libvirt.connection import Connections, RawEvent
from compute_agent.virt.libvirt.keeper import STOP_S, Keeper
from compute_agent.virt.libvirt.signals import Signal

LOG = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

QUESTION_S = 10.0
"""How long a question waits, for libvirt's return and for the answer, where no operation runs."""


class _Pool:
    """Native threads, and the connections that they use."""

    def __init__(self, name: str, size: int, uri: str) -> None:
        self.threads = concurrency.NativePool(name, size)
        self.connections = Connections(uri)


class Host:
    """One hypervisor, reached through libvirt. The callbacks are those of :class:`Keeper`."""

    def __init__(
        self,
        uri: str,
        *,
        on_event: Callable[[RawEvent], object],
        on_connect: Callable[[dict[str, int]], object],
        on_change: Callable[[bool, str], object],
        on_signal: Callable[[Signal], object] = lambda signal: None,
    ) -> None:
        self.uri = uri
        self._keeper = Keeper(
            uri, on_event=on_event, on_connect=on_connect, on_change=on_change, on_signal=on_signal
        )
        self._make_pools()

    def _make_pools(self) -> None:
        self._calls = _Pool("libvirt-call", CONF.libvirt.call_threads, self.uri)
        self._guests = _Pool("libvirt-guest", CONF.libvirt.guest_threads, self.uri)

    @property
    def connected(self) -> bool:
        """Whether libvirt was there a moment ago."""
        return self._keeper.up.is_set()

    @property
    def reason(self) -> str:
        """Why libvirt was away last."""
        return self._keeper.reason

    @property
    def connects(self) -> int:
        """How often a connection was made: what was learnt over an earlier one may be out of date."""
        return self._keeper.connects

    @property
    def given_up(self) -> int:
        """How many calls were given up and have not come back."""
        return self._calls.threads.given_up + self._guests.threads.given_up

    def start(self) -> bool:
        """Connect, and stay connected from now on; return whether libvirt is there already."""
        return self._keeper.start()

    def stop(self) -> None:
        """Disconnect. Events that libvirt has told are handed on first."""
        self._keeper.stop()
        for pool in (self._calls, self._guests):
            try:
                pool.threads.call_within(STOP_S, pool.connections.drop_idle)
            except concurrency.TimedOut:
                LOG.debug("idle connections to libvirt could not be closed in time")
            pool.threads.close()
        self._make_pools()

    # --- calls -------------------------------------------------------------------------------------

    def ask(
        self, function: Callable[Concatenate[libvirt.virConnect, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call ``function`` with a connection. For questions that touch no guest's monitor.

        :raises HypervisorUnavailable: libvirt did not come back in time
        :raises Timeout: it did not answer in time
        :raises ComputeError: libvirt's own error
        """
        return self._call(self._calls, lambda connection: function(connection, *args, **kwargs), QUESTION_S)

    def act(
        self, function: Callable[Concatenate[libvirt.virConnect, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As :meth:`ask`, for what may hang on a guest, or changes something: more patient."""
        patience = float(CONF.libvirt.call_timeout)
        return self._call(self._guests, lambda connection: function(connection, *args, **kwargs), patience)

    def ask_guest(
        self,
        uuid: str,
        function: Callable[Concatenate[libvirt.virDomain, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """As :meth:`ask`, with the domain that has this uuid.

        :raises InstanceNotFound: if there is none
        """
        return self.ask(
            functools.partial(_with_domain, uuid, lambda domain: function(domain, *args, **kwargs))
        )

    def ask_monitor(
        self,
        uuid: str,
        function: Callable[Concatenate[libvirt.virDomain, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """As :meth:`ask_guest`, for what the guest's monitor has to answer, so that it may hang."""
        asked = functools.partial(_with_domain, uuid, lambda domain: function(domain, *args, **kwargs))
        return self._call(self._guests, asked, QUESTION_S)

    def act_guest(
        self,
        uuid: str,
        function: Callable[Concatenate[libvirt.virDomain, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """As :meth:`act`, with the domain that has this uuid.

        :raises InstanceNotFound: if there is none
        """
        return self.act(
            functools.partial(_with_domain, uuid, lambda domain: function(domain, *args, **kwargs))
        )

    def _call(self, pool: _Pool, function: Callable[[libvirt.virConnect], T], patience: float) -> T:
        work = steps.current()
        in_operation = work.deadline is not None or work.operation_id is not None
        until = None if in_operation else time.monotonic() + patience
        attempt = 0
        while True:
            self._await_libvirt(work, until)
            limit = self._limit(work, until)
            try:
                return pool.threads.call_within(limit, pool.connections.use, function)
            except concurrency.TimedOut:
                raise _timeout(pool.threads) from None
            except libvirt.libvirtError as error:
                raise faults.to_compute_error(error) from error
            except faults.ConnectionLost as lost:
                reason = str(lost)
            if attempt:  # the first time it may have been an old connection
                _pause(work, until, min(0.05 * 2**attempt, 1.0), reason)
            attempt += 1

    def _await_libvirt(self, work: steps.Work, until: float | None) -> None:
        if self._keeper.up.is_set():
            return
        limit = None if until is None else max(0.0, until - time.monotonic())
        try:
            with work.waiting("hypervisor"):
                came = work.wait(self._keeper.up, limit)
        except errors.Timeout:
            came = False
        if not came:
            raise errors.HypervisorUnavailable(f"libvirt is away: {self.reason}", evidence=self.reason)

    @staticmethod
    def _limit(work: steps.Work, until: float | None) -> float | None:
        limit = float(CONF.libvirt.call_timeout)
        if until is not None:
            limit = min(limit, max(0.01, until - time.monotonic()))
        left = work.remaining(limit)
        if left is not None and left <= 0:
            raise errors.Timeout(f"{work.verb} passed its deadline")
        return left


def _with_domain(uuid: str, function: Callable[[Any], T], connection: libvirt.virConnect) -> T:
    return function(connection.lookupByUUIDString(uuid))


def _pause(work: steps.Work, until: float | None, seconds: float, reason: str) -> None:
    if until is not None and time.monotonic() + seconds >= until:
        raise errors.HypervisorUnavailable(f"libvirt is away: {reason}", evidence=reason)
    try:
        work.sleep(seconds)
    except errors.Timeout:
        raise errors.HypervisorUnavailable(f"libvirt is away: {reason}", evidence=reason) from None


def _timeout(threads: concurrency.NativePool) -> errors.Timeout:
    return errors.Timeout(
        "libvirt did not answer in time; the call was given up",
        hint="the guest or libvirtd hangs; the instance takes no verb until the call has come back",
        evidence=f"{threads.name}: {threads.given_up} calls given up have not come back",
    )
