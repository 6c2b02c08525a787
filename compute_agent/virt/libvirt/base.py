# SPDX-License-Identifier: Apache-2.0
"""What the concerns of the libvirt driver have in common: gateway, relay, image cache, facts."""

import logging
import os
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import libvirt

from compute_agent import concurrency, steps
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.model.states import PowerState
from compute_agent.virt import event as virt_event
from compute_agent.virt.driver import ComputeDriver
from compute_agent.virt.images.cache import ImageCache
from compute_agent.virt.libvirt import guest
from compute_agent.virt.libvirt.blockjobs import BlockJobs
from compute_agent.virt.libvirt.designer import DirectBoot
from compute_agent.virt.libvirt.events import Relay
from compute_agent.virt.libvirt.facts import HostFacts, Settings
from compute_agent.virt.libvirt.host import Host
from compute_agent.virt.libvirt.paths import InstancePaths
from compute_agent.virt.libvirt.signals import Signals
from compute_agent.virt.virtapi import VirtAPI

LOG = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

OFF = frozenset({PowerState.SHUTDOWN, PowerState.CRASHED, PowerState.SUSPENDED, PowerState.NOSTATE})
"""Power states in which no QEMU runs (a crashed guest that was kept for a look excepted)."""
FILE_THREADS = 4


class LibvirtBase(ComputeDriver):
    """Base of the concerns."""

    def __init__(self, virtapi: VirtAPI) -> None:
        super().__init__(virtapi)
        self._relay = Relay(self.emit_event)
        self._signals = Signals()
        self._host = Host(
            CONF.libvirt.connection_uri,
            on_event=self._relay.handle,
            on_connect=self._connected,
            on_change=self._hypervisor_changed,
            on_signal=self._signals.handle,
        )
        self._block_jobs = BlockJobs(self._host, self._signals)
        self._instances_path = os.path.abspath(CONF.instances_path)
        self._images = ImageCache(os.path.join(self._instances_path, CONF.image_cache.subdirectory_name))
        self._file_threads = concurrency.NativePool("libvirt-files", FILE_THREADS)
        self._known_facts: tuple[int, HostFacts, str] | None = None
        self._known_logs: tuple[int, str | None] | None = None
        self._node: str | None = None

    def _connected(self, states: dict[str, int]) -> None:
        self._relay.prime(states)
        self._signals.ring_all()

    def _hypervisor_changed(self, connected: bool, reason: str) -> None:
        self.emit_event(virt_event.HypervisorEvent(connected, reason))
        if connected:
            self._learn_soon()

    def _learn_soon(self) -> None:
        """Ask libvirt about the host before a guest has to wait for it: the first answer takes a second."""

        def learn() -> None:
            try:
                self._learn()
            except errors.ComputeError as error:
                LOG.warning("libvirt has not told of the host yet: %s", error.message)

        concurrency.spawn(learn)

    def _facts(self) -> HostFacts:
        """Return what libvirt tells of the host; asked again after each reconnect.

        :raises HypervisorUnavailable: if it can't be asked
        :raises HypervisorError: if it can't run guests of ``[libvirt] virt_type``
        """
        return self._learn()[1]

    def _capabilities(self) -> str:
        """Return libvirt's capabilities as XML. Raises as :meth:`_facts`."""
        return self._learn()[2]

    def _learn(self) -> tuple[int, HostFacts, str]:
        if self._known_facts is None or self._known_facts[0] != self._host.connects:
            xml = self._host.ask(_capabilities)
            self._known_facts = (
                self._host.connects,
                HostFacts.from_capabilities(xml, CONF.libvirt.virt_type),
                xml,
            )
        return self._known_facts

    def _settings(self) -> Settings:
        return Settings.from_conf(CONF)

    def _paths(self, instance: Instance) -> InstancePaths:
        return InstancePaths(self._instances_path, instance.uuid)

    def _direct_boot(self, instance: Instance) -> DirectBoot | None:
        """Return the files of a direct boot, fetched if they are not here; None if it boots a disk."""
        if instance.kernel is None:
            return None
        ramdisk = instance.ramdisk and self._images.ensure_file(instance.ramdisk)
        kernel = self._images.ensure_file(instance.kernel)
        return DirectBoot(kernel=kernel, ramdisk=ramdisk or None, cmdline=instance.cmdline)

    def _on_disk(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``function``, which touches files, in a native thread.

        :raises Timeout: if the storage does not answer
        """
        try:
            limit = steps.current().remaining(float(CONF.libvirt.call_timeout))
            return self._file_threads.call_within(limit, function, *args, **kwargs)
        except concurrency.TimedOut:
            raise errors.Timeout(f"the storage of {self._instances_path} does not answer") from None

    def _power_state(self, uuid: str) -> PowerState | None:
        """Return the power state; None if there is no such domain.

        :raises HypervisorUnavailable: if that can't be told: unknown is not gone
        """
        try:
            return self._host.ask_guest(uuid, guest.observe)
        except errors.InstanceNotFound:
            return None

    def _is_off(self, uuid: str) -> bool:
        state = self._power_state(uuid)
        return state is None or state in OFF

    def _is_in(self, uuid: str, state: PowerState) -> Callable[[], bool]:
        return lambda: self._power_state(uuid) is state


def _capabilities(connection: libvirt.virConnect) -> str:
    return str(connection.getCapabilities())
