# SPDX-License-Identifier: Apache-2.0
"""The parts that benches share, each started when the first bench asks for it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from typing import Any

from tests.bench import machine
from tests.rig.agent import Agent
from tests.rig.broker import Broker
from tests.rig.hypervisor import Hypervisor

_QUIET = {"debug": False}


class Parts:
    """A broker, a hypervisor, and agents as a distribution would run them: no debugging output."""

    def __init__(self) -> None:
        self._closers = contextlib.ExitStack()
        self.facts: dict[str, Any] = {}

    @functools.cached_property
    def broker(self) -> Broker:
        """A private RabbitMQ node."""
        broker = self._closers.enter_context(Broker())
        self.facts |= machine.of_broker(broker)
        return broker

    @functools.cached_property
    def hypervisor(self) -> Hypervisor:
        """A private libvirtd, warmed up."""
        hypervisor = self._closers.enter_context(Hypervisor())
        self.facts |= machine.of_hypervisor(hypervisor)
        return hypervisor

    def agent(self, *, qemu: bool, **options: Any) -> Agent:
        """An agent that is not started yet; the caller closes it (it is a context manager).

        qemu: with the libvirt driver, else with the fake one. options: of `Agent`, and
        `defaults` for `[DEFAULT]`.
        """
        defaults: Mapping[str, object] = options.pop("defaults", {})
        sections = {"DEFAULT": {**_QUIET, **defaults}}
        return Agent(self.broker, self.hypervisor if qemu else None, sections=sections, **options)

    def close(self) -> None:
        """End all of them."""
        self._closers.close()

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()
