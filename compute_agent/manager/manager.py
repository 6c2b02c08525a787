# SPDX-License-Identifier: Apache-2.0
"""What verbs and questions work with: the driver, the record, the engine, the outbox."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from oslo_context import context as oslo_context

from compute_agent.model.instance import Instance
from compute_agent.operations.engine import Engine
from compute_agent.operations.verbs import Verb
from compute_agent.store import outbox
from compute_agent.store.database import Identity, Store, Transaction
from compute_agent.virt import block_device
from compute_agent.virt.driver import ComputeDriver

if TYPE_CHECKING:
    from compute_agent.manager.external_events import ExternalEvents
    from compute_agent.manager.handshaking import Handshaking
    from compute_agent.manager.observer import Observer


class Manager:
    """The parts, in one place. It has no logic of its own.

    :param driver: does things at the hypervisor
    :param store: the state file
    :param table: the verbs
    """

    observer: "Observer"
    external_events: "ExternalEvents"
    handshaking: "Handshaking"

    def __init__(self, driver: ComputeDriver, store: Store, table: Mapping[str, Verb]) -> None:
        self.driver = driver
        self.store = store
        self.table = table
        self.engine = Engine(store, table, self)
        self.hypervisor_away: str | None = None
        self.started_at = time.monotonic()
        self.health: dict[str, Any] = {}

    @property
    def identity(self) -> Identity:
        """Whose agent this is."""
        assert self.store.identity is not None
        return self.store.identity

    def supports(self, verb: str) -> bool:
        """Return whether the driver really does ``verb``."""
        return verb in self.driver.supported_verbs()


def request_context() -> Any:
    """Return the context that driver members are given: the running operation's."""
    return oslo_context.get_current()


def block_device_info(instance: Instance) -> dict[str, Any]:
    """Return the instance's block devices in the form that driver members take."""
    return block_device.get_block_device_info(instance, instance.block_device_mapping)


def as_of(tx: Transaction) -> dict[str, Any]:
    """Return what an answer is as of: the newest event that it takes in."""
    identity = tx.identity
    return {
        "host": identity.host,
        "host_id": identity.host_id,
        "epoch": identity.epoch,
        "seq": outbox.last_seq(tx),
    }
