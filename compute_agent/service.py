# SPDX-License-Identifier: Apache-2.0
"""The agent, put together: start, stop, reload, watchdog.

Start: state, driver, comparison with the hypervisor, what was interrupted, then the queue. Only then READY.
Stop: no more messages, running operations get their time, the rest stays in the journal.
"""

import logging
import os
import time
from typing import Any

from oslo_service import service as oslo_service

from compute_agent import concurrency, failpoints, notify
from compute_agent.conf import CONF
from compute_agent.events.publisher import Publisher
from compute_agent.manager import TABLE
from compute_agent.manager.external_events import ExternalEvents
from compute_agent.manager.manager import Manager
from compute_agent.manager.observer import Observer
from compute_agent.manager.reports import Reporter
from compute_agent.manager.virtapi import AgentVirtAPI
from compute_agent.model import errors
from compute_agent.model.event import EventType
from compute_agent.operations import history
from compute_agent.rpc import ownership
from compute_agent.rpc.server import Server
from compute_agent.rpc.sink import BrokerSink
from compute_agent.rpc.transport import create_transport, describe
from compute_agent.store import outbox
from compute_agent.store.directory import StateDirectory
from compute_agent.virt.driver import load_compute_driver

LOG = logging.getLogger(__name__)

AGE_OUT_INTERVAL_S = 600.0
STATUS_INTERVAL_S = 5.0
DISK_INTERVAL_S = 1.0
STATE_DISK = "state disk"
"""The reason for holding messages back while the disk is almost full."""


class AgentService(oslo_service.ServiceBase):  # type: ignore[misc]
    """One agent.

    :raises store.directory.Unusable: if its state directory can't be used
    """

    def __init__(self) -> None:
        self._ended = concurrency.Event()
        self._started = False
        self.directory = StateDirectory(CONF.state_path)
        self.store = self.directory.open(CONF.host_name)
        self.external_events = ExternalEvents()
        driver = load_compute_driver(AgentVirtAPI(self.store, self.external_events))
        self.manager = Manager(driver, self.store, TABLE)
        self.manager.external_events = self.external_events
        self.manager.observer = Observer(self.manager)
        self.transport = create_transport()
        self.sink = BrokerSink(self.transport, CONF.host_name)
        self.publisher = Publisher(self.store, self.sink)
        self.monitor = concurrency.HubMonitor()
        self.reporter = Reporter(self.manager, self.publisher, self.monitor)
        self.server = Server(self.transport, self.manager)
        engine = self.manager.engine
        engine.before_end = self.manager.observer.before_end
        engine.on_progress = self.reporter.progress

    def start(self) -> None:
        """Start everything, in order. Called in the main greenthread."""
        concurrency.spawn(self._start_or_die)

    def stop(self, graceful: bool = True) -> None:
        """End in good order; may take ``graceful_shutdown_timeout`` seconds."""
        if self._ended.is_set():
            return
        notify.tell("STOPPING=1", "STATUS=stopping: running operations end")
        LOG.info("stopping")
        try:
            self.server.stop()
            if not self.manager.engine.stop(_patience() if graceful else 0):
                LOG.warning("some operations still run; they go on after the next start")
            self.publisher.stop()
            self.sink.close()
            self.manager.driver.cleanup_host(CONF.host_name)
            self.directory.close(self.store)
            LOG.info("stopped")
        except Exception:  # a full disk, a hypervisor that hangs: the journal has what is left
            LOG.exception("the agent did not stop in good order")
        finally:
            self._ended.set()

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
        ownership.claim(self.transport, self.store.identity)
        self.manager.observer.start()
        notify.status("reaching the hypervisor")
        self.manager.driver.init_host(CONF.host_name)
        self.publisher.start()
        self._compare()
        left = self.manager.engine.recover()
        self.reporter.start()
        self.server.start()
        while not self.server.consumer.wait_connected(1.0):
            notify.status(f"waiting for the broker: {self.server.consumer.problem}")
        concurrency.spawn(self._age_out)
        concurrency.spawn(self._watch_disk)
        concurrency.spawn(self._keep_watch)
        self._started = True
        identity = self.manager.identity
        LOG.info(
            "ready after %.2f s: host %s, host_id %s, epoch %s, driver %s, broker %s, %d operations left",
            time.monotonic() - started,
            identity.host,
            identity.host_id,
            identity.epoch,
            CONF.compute_driver,
            describe(self.transport),
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
                history.age_out(self.store)
            except errors.ComputeError as error:
                LOG.warning("old records stay for now: %s", error.message)

    def _watch_disk(self) -> None:
        """Take no messages while the state disk has less room than the reserve."""
        while not self._ended.is_set():
            disk = os.statvfs(CONF.state_path)
            free_mb = disk.f_bavail * disk.f_frsize // 2**20
            if free_mb < CONF.health.state_reserve_mb:
                message = (
                    f"{free_mb} MiB free below {CONF.state_path}, of {CONF.health.state_reserve_mb} needed"
                )
                self._hold(message)
            else:
                self.server.release(STATE_DISK)
            self._ended.wait(DISK_INTERVAL_S)

    def _hold(self, message: str) -> None:
        if STATE_DISK not in self.manager.health:
            self.store.submit(lambda tx: outbox.append(tx, EventType.HOST_PROBLEM, data={"problem": message}))
        self.server.hold(STATE_DISK, message)

    def _keep_watch(self) -> None:
        """Tell systemd that the hub turns, and how things are."""
        interval = notify.watchdog_interval_s()
        while not self._ended.is_set():
            notify.tell("WATCHDOG=1", f"STATUS={self._status()}")
            self._ended.wait(min(interval or STATUS_INTERVAL_S, STATUS_INTERVAL_S))

    def _status(self) -> str:
        engine = self.manager.engine
        parts = [f"{engine.running} running, {engine.waiting} waiting"]
        if self.manager.hypervisor_away is not None:
            parts.append(f"hypervisor away: {self.manager.hypervisor_away}")
        if not self.server.consumer.connected:
            parts.append(f"broker away: {self.server.consumer.problem}")
        parts += [f"{part}: {problem}" for part, problem in self.manager.health.items()]
        return "; ".join(parts)


def _patience() -> float:
    """How long running operations get: oslo.service kills the process at the end of its time."""
    whole: float = CONF.graceful_shutdown_timeout
    return whole - min(2.0, whole / 4)


def run() -> None:
    """Run the agent until it is told to stop."""
    agent: Any = AgentService()
    oslo_service.launch(CONF, agent, restart_method="mutate").wait()
