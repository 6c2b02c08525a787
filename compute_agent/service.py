# SPDX-License-Identifier: Apache-2.0
"""The agent, put together: start, stop, reload, watchdog.

Start: state, driver, comparison with the hypervisor, what was interrupted, then the queue. Only then READY.
Stop: no more messages, running operations get their time, the rest stays in the journal.
"""

import logging
import os
import signal
import time
from typing import Any

from oslo_service import service as oslo_service

from compute_agent import concurrency, failpoints, notify
from compute_agent.conf import CONF
from compute_agent.events.publisher import Publisher
from compute_agent.manager import TABLE
from compute_agent.manager.confirming import Confirmer
from compute_agent.manager.external_events import ExternalEvents
from compute_agent.manager.handshaking import Handshaking
from compute_agent.manager.housekeeping import Housekeeper
from compute_agent.manager.manager import Manager
from compute_agent.manager.observer import Observer
from compute_agent.manager.reclaim import Reclaimer
from compute_agent.manager.reports import Reporter
from compute_agent.manager.statewatch import StateWatch
from compute_agent.manager.timekeeping import Timekeeper
from compute_agent.manager.virtapi import AgentVirtAPI
from compute_agent.model import errors
from compute_agent.operations import history
from compute_agent.rpc import ownership
from compute_agent.rpc.names import MIB
from compute_agent.rpc.peers import PeerLink
from compute_agent.rpc.server import Server
from compute_agent.rpc.sink import BrokerSink
from compute_agent.rpc.transport import create_transport, describe
from compute_agent.store import directory
from compute_agent.store.database import Store
from compute_agent.virt.driver import load_compute_driver

LOG = logging.getLogger(__name__)

AGE_OUT_INTERVAL_S = 600.0
STATUS_INTERVAL_S = 5.0
DISK_INTERVAL_S = 1.0
CONSUMER_END_S = 5.0
"""How long the consumer may take to hand back what it has not acknowledged, in seconds."""
ENDLESS_S = 365 * 86400.0
RESERVE_SHARE = 4
"""One part in so many of ``state_reserve_mb`` is in a file of its own, so that nobody else takes it."""
QUEUE = "queue"
"""What is named as unwell while another agent serves the queue."""


class AgentService(oslo_service.ServiceBase):  # type: ignore[misc]
    """One agent.

    :raises directory.Unusable: if its state directory can't be used
    """

    def __init__(self) -> None:
        self._ended = concurrency.Event()
        self._starting: concurrency.Task | None = None
        self.directory, self.store = _open_state()
        self.external_events = ExternalEvents()
        driver = load_compute_driver(AgentVirtAPI(self.store, self.external_events))
        self.manager = Manager(driver, self.store, TABLE)
        self.manager.external_events = self.external_events
        self.manager.observer = Observer(self.manager)
        self.transport = create_transport()
        self.sink = BrokerSink(self.transport, CONF.host_name)
        self.publisher = Publisher(self.store, self.sink)
        self.peers = PeerLink(self.transport)
        self.manager.handshaking = Handshaking(self.manager, self.peers)
        self.monitor = concurrency.HubMonitor()
        self.timekeeper = Timekeeper(self.manager)
        self.housekeeper = Housekeeper(self.manager, self.timekeeper)
        self.overdue = (Reclaimer(self.manager), Confirmer(self.manager))
        self.reporter = Reporter(self.manager, self.publisher, self.monitor)
        self.server = Server(self.transport, self.manager)
        self.ownership = ownership.Ownership(self.transport, self.manager.identity)
        self.server.consumer.connect = self.ownership.connect
        self.state_watch = StateWatch(
            self.manager, self.directory, hold=self.server.hold, release=self.server.release
        )
        engine = self.manager.engine
        engine.hooks.before_again = self.manager.observer.before_again
        engine.hooks.before_end = self.manager.observer.before_end
        engine.hooks.on_progress = self.reporter.progress

    def start(self) -> None:
        """Start everything, in order. Called in the main greenthread."""
        self._starting = concurrency.spawn(self._start_or_die)

    def stop(self, graceful: bool = True) -> None:
        """End in good order, or without it when ``graceful_shutdown_timeout`` is over: then at once, as 0.

        What does not end by then is in the journal, and goes on after the next start.
        """
        if self._ended.is_set():
            return
        whole = float(CONF.graceful_shutdown_timeout)
        began = time.monotonic()
        notify.tell("STOPPING=1", "STATUS=stopping: running operations end")
        LOG.info("stopping")
        self._limit_the_end(whole)
        if self._starting is not None:
            self._starting.kill()
        try:
            self.server.stop(min(CONSUMER_END_S, whole / 4 or CONSUMER_END_S))
            self.manager.engine.stop(_patience(whole, began) if graceful else 0)
            self._tell_what_stays()
            self.publisher.stop()
            self.sink.close()
            self.peers.close()
            self.ownership.close()
            self.manager.driver.cleanup_host(CONF.host_name)
            self.directory.close(self.store)
            LOG.info("stopped")
        except Exception:  # a full disk, a hypervisor that hangs: the journal has what is left
            LOG.exception("the agent did not stop in good order")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)  # the interpreter's own end, however slow, is no failure
            self._ended.set()

    def _limit_the_end(self, whole: float) -> None:
        """See to it that the agent has ended after ``whole`` seconds (0: no limit), whatever hangs.

        oslo.service has set an alarm for it that ends the process by a signal. In its place a greenthread
        ends it in time, with a word; and the alarm, without one, if not even greenthreads run any more.
        """
        signal.alarm(0)
        if not whole:
            return
        signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
        signal.setitimer(signal.ITIMER_REAL, whole)
        concurrency.spawn(self._end_at, time.monotonic() + whole - min(0.5, whole / 8))

    def _end_at(self, deadline: float) -> None:
        if self._ended.wait(deadline - time.monotonic()):
            return
        LOG.warning("the time to stop is over: the agent ends now")
        self._tell_what_stays()
        os._exit(0)

    def _tell_what_stays(self) -> None:
        engine = self.manager.engine
        if engine.running or engine.waiting:
            left = f"{engine.running} running, {engine.waiting} waiting"
            LOG.warning("operations stay in the journal: %s; they go on after the next start", left)

    def wait(self) -> None:
        """Wait until it has ended."""
        self._ended.wait()

    def reset(self) -> None:
        """Take over options that changed (SIGHUP); oslo.service has read the files again."""
        notify.status("configuration read again")
        self.manager.engine.refresh_limits()
        LOG.info("configuration read again")

    # --- starting --------------------------------------------------------------------------------------

    def _start_or_die(self) -> None:
        try:
            self._start()
        except ownership.QueueTaken as error:
            LOG.critical("the agent can't start: %s", error)
            os._exit(1)
        except Exception:
            LOG.exception("the agent could not start")
            os._exit(1)

    def _start(self) -> None:
        started = time.monotonic()
        failpoints.arm_from_environment()
        notify.status("asking who serves the queue")
        self.ownership.claim()
        self.timekeeper.start()
        self.manager.observer.start()
        notify.status("reaching the hypervisor")
        self.manager.driver.init_host(CONF.host_name)
        self.publisher.start()
        self._compare()
        self.manager.handshaking.recover()
        left = self.manager.engine.recover()
        self.reporter.start()
        self.state_watch.look()
        self.server.start()
        concurrency.spawn(self.state_watch.run, self._ended)
        while not self.server.consumer.wait_connected(1.0):
            if self.ownership.taken is not None:
                raise ownership.QueueTaken(self.ownership.taken)
            if self.server.consumer.paused:  # that is no reason to be started again
                break
            notify.status(f"waiting for the broker: {self.server.consumer.problem}")
        concurrency.spawn(self._age_out)
        self.housekeeper.start()
        for one in self.overdue:
            one.start()
        concurrency.spawn(self._keep_watch)
        identity = self.manager.identity
        LOG.info(
            "ready after %.2f s: host %s, host_id %s, epoch %s, driver %s, broker %s, "
            "threads %s, %d operations left",
            time.monotonic() - started,
            identity.host,
            identity.host_id,
            identity.epoch,
            CONF.compute_driver,
            describe(self.transport),
            CONF.concurrency_backend,
            left,
        )
        notify.tell("READY=1", f"STATUS=serving compute.{identity.host}")

    def _compare(self) -> None:
        notify.status("comparing the record with the hypervisor")
        self.manager.observer.compare_at_start()

    # --- running ---------------------------------------------------------------------------------------

    def _age_out(self) -> None:
        while True:
            concurrency.sleep(AGE_OUT_INTERVAL_S)
            try:
                if self.timekeeper.trusted:
                    history.age_out(self.store)
            except errors.ComputeError as error:
                LOG.warning("old records stay for now: %s", error.message)

    def _keep_watch(self) -> None:
        """Tell systemd that the hub turns, and how things are."""
        interval = notify.watchdog_interval_s()
        while not self._ended.is_set():
            self._note_who_serves()
            notify.tell("WATCHDOG=1", f"STATUS={self._status()}")
            self._ended.wait(min(interval or STATUS_INTERVAL_S, STATUS_INTERVAL_S))

    def _note_who_serves(self) -> None:
        """Tell, also in reports, while another agent has the queue."""
        if self.ownership.taken is None:
            self.manager.health.pop(QUEUE, None)
        else:
            self.manager.health[QUEUE] = self.ownership.taken

    def _status(self) -> str:
        engine = self.manager.engine
        parts = [f"{engine.running} running, {engine.waiting} waiting"]
        if self.manager.hypervisor_away is not None:
            parts.append(f"hypervisor away: {self.manager.hypervisor_away}")
        if self.server.consumer.problem is not None and self.ownership.taken is None:
            parts.append(f"broker away: {self.server.consumer.problem}")
        if self.publisher.problem is not None:
            parts.append(f"events are kept: {self.publisher.problem}")
        parts += [f"{part}: {problem}" for part, problem in self.manager.health.items()]
        return "; ".join(parts)


def _patience(whole: float, began: float) -> float:
    """How long running operations get, in seconds: the rest of ``whole`` but what the end itself takes."""
    if not whole:
        return ENDLESS_S
    return max(0.0, began + whole - min(2.0, whole / 2) - time.monotonic())


def _open_state() -> tuple[directory.StateDirectory, Store]:
    """Open the state file, as soon as the disk lets it be opened."""
    ours: directory.StateDirectory | None = None
    told = False
    while True:
        try:
            reserve = CONF.health.state_reserve_mb * MIB // RESERVE_SHARE
            ours = ours or directory.StateDirectory(CONF.state_path, reserve)
            return ours, ours.open(CONF.host_name)
        except directory.NotNow as error:
            LOG.log(logging.DEBUG if told else logging.ERROR, "the agent can't start yet: %s", error)
            told = True
            notify.status(f"waiting for the state disk: {error}")
            concurrency.sleep(DISK_INTERVAL_S)


def run() -> None:
    """Run the agent until it is told to stop."""
    agent: Any = AgentService()
    oslo_service.launch(CONF, agent, restart_method="mutate").wait()
