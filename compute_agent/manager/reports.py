# SPDX-License-Identifier: Apache-2.0
"""The heartbeat: ``host.report``, sent every ``report_interval`` and stored nowhere."""

import logging
import time
from typing import Any

import msgspec

from compute_agent import concurrency, steps
from compute_agent.conf import CONF
from compute_agent.events.publisher import Publisher
from compute_agent.manager.manager import Manager
from compute_agent.manager.versions import versions
from compute_agent.model import clock
from compute_agent.model.event import Cause, Event, EventType
from compute_agent.model.operation import Operation
from compute_agent.store import host, instances, outbox
from compute_agent.store.database import Transaction

LOG = logging.getLogger(__name__)

RESOURCES_S = 5.0
"""How long the hypervisor may take to tell its resources, in seconds; else the report goes without."""


class Reporter:
    """Sends what is told without being stored."""

    def __init__(self, manager: Manager, publisher: Publisher, monitor: concurrency.HubMonitor) -> None:
        self._manager = manager
        self._publisher = publisher
        self._monitor = monitor

    def start(self) -> None:
        """Begin to report."""
        concurrency.spawn(self._run)

    def progress(self, operation: Operation) -> None:
        """Tell how far an operation is."""
        event = self._event(
            EventType.OPERATION_PROGRESS,
            operation_to_data(operation),
            instance_uuid=operation.instance_uuid,
            operation_id=operation.operation_id,
        )
        self._publisher.send_ephemeral(event, expires_after_s=30.0)

    def _run(self) -> None:
        while True:
            started = time.monotonic()
            try:
                event = self._event(EventType.HOST_REPORT, self.report())
                self._publisher.send_ephemeral(event, expires_after_s=3 * CONF.report_interval)
            except Exception:
                LOG.exception("no report could be made")
            concurrency.sleep(max(0.01, CONF.report_interval - (time.monotonic() - started)))

    def _event(self, kind: EventType, data: dict[str, Any], **about: Any) -> Event:
        identity = self._manager.identity
        return Event(
            host=identity.host,
            host_id=identity.host_id,
            epoch=identity.epoch,
            seq=None,
            last_seq=self._manager.store.read(outbox.last_seq),
            occurred_at=clock.timestamp(),
            type=kind,
            cause=Cause.HOST,
            data=data,
            **about,
        )

    def report(self) -> dict[str, Any]:
        """Return the report's data."""

        def read(tx: Transaction) -> dict[str, Any]:
            reasons = host.reasons(tx)
            return {"reasons": reasons, "enabled": not reasons, "instances": instances.counts(tx)}

        engine = self._manager.engine
        blocked_ms = self._monitor.take_worst()
        if blocked_ms > CONF.health.hub_lag_warning * 1000:
            LOG.warning("the hub was blocked for %.0f ms", blocked_ms)
        return {
            **self._manager.store.read(read),
            **versions(self._manager),
            "now": clock.timestamp(),
            "resources": self._resources(),
            "operations": {"waiting": engine.waiting, "running": engine.running},
            "hub_blocked_ms": round(blocked_ms, 1),
            "problems": dict(self._manager.health),
            "unsent_since_s": self._publisher.away_s,
        }

    def _resources(self) -> dict[str, Any] | None:
        if self._manager.hypervisor_away is not None:
            return None
        try:
            with steps.working(steps.Work(verb="report", deadline=time.monotonic() + RESOURCES_S)):
                return dict(self._manager.driver.get_available_resource(CONF.host_name))
        except Exception as error:  # the heartbeat does not wait for a hypervisor that hangs or stumbles
            LOG.debug("no resources in this report: %r", error)
            return None


def operation_to_data(operation: Operation) -> dict[str, Any]:
    """Return an operation as an event's data."""
    data: dict[str, Any] = msgspec.to_builtins(operation)
    return data
