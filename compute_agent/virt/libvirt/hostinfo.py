# SPDX-License-Identifier: Apache-2.0
"""Host: the driver's own life, all guests at once, what the host has, and whether it is fit."""

import logging
from collections.abc import Callable, Iterable
from typing import Any

import libvirt

from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.virt import configdrive
from compute_agent.virt.info import InstanceInfo, Problem
from compute_agent.virt.libvirt import (
    designer,
    fitness,
    guest,
    local_disks,
    networks,
    resources,
    room,
)
from compute_agent.virt.libvirt.consoles import LibvirtConsoles
from compute_agent.virt.libvirt.diagnostics import to_info
from compute_agent.virt.libvirt.orphans import LibvirtOrphans
from compute_agent.virt.libvirt.properties import Properties

LOG = logging.getLogger(__name__)

KIB_PER_MIB = 1024


class LibvirtHost(LibvirtOrphans, LibvirtConsoles):
    """The host concern."""

    def init_host(self, host: str) -> None:
        """Connect to libvirt and hear its events; a libvirt that is away is waited for in the background."""
        if self._host.start():
            self._learn_soon()
        else:
            LOG.warning(
                "libvirt can't be reached at %s, going on without: %s", self._host.uri, self._host.reason
            )

    def cleanup_host(self, host: str) -> None:
        """Disconnect. What libvirt has told until now is handed on first; guests run on."""
        self._host.stop()
        self._file_threads.close()
        self._images.close()

    # --- all guests --------------------------------------------------------------------------------

    def get_all_info(self) -> dict[str, InstanceInfo]:
        """Return what libvirt shows of every domain, by uuid; one visit, which no guest can hold up."""
        return {seen.uuid: to_info(seen) for seen in self._host.ask(guest.see_all)}

    def list_instances(self) -> list[str]:
        """Return the names of all domains."""
        return [name for _, name in self._host.ask(_names)]

    def list_instance_uuids(self) -> list[str]:
        """Return the uuids of all domains."""
        return [uuid for uuid, _ in self._host.ask(_names)]

    def get_num_instances(self) -> int:
        """Return how many domains there are."""
        return len(self._host.ask(_names))

    def get_per_instance_usage(self) -> dict[str, dict[str, Any]]:
        """Return the memory (MiB) that each guest was given."""
        return {
            seen.uuid: {"uuid": seen.uuid, "memory_mb": seen.mem_kb // KIB_PER_MIB}
            for seen in self._host.ask(guest.see_all)
        }

    # --- resources ---------------------------------------------------------------------------------

    def get_available_resource(self, nodename: str) -> dict[str, Any]:
        """Return what the host has and how much of it is in use. Pools of native threads do the looking."""
        found = self._host.ask(resources.visit)
        storage = self._on_disk(resources.measure, self._instances_path)
        return resources.available(found, storage, self._facts().cpus, self._capabilities())

    def get_inventory(self, nodename: str) -> dict[str, dict[str, Any]]:
        """Return ``VCPU``, ``MEMORY_MB`` and ``DISK_GB``."""
        storage = self._on_disk(resources.measure, self._instances_path)
        return resources.inventory(storage, self._facts().cpus)

    def get_traits(self, nodename: str) -> list[str]:
        """Return what the host's processor can do, by the names of os-traits."""
        if self._facts().arch != "x86_64":
            return []
        return resources.traits(self._on_disk(resources.cpu_flags))

    def get_available_nodes(self, refresh: bool = False) -> list[str]:
        """Return the one node: libvirt's name of this host."""
        if refresh or self._node is None:
            self._node = self._host.ask(_hostname)
        return [self._node]

    def get_host_cpu_stats(self) -> dict[str, int]:
        """Return processor times in ns since boot, and the frequency in MHz."""
        return self._host.ask(resources.cpu_stats)

    def get_host_uptime(self) -> str:
        """Return how long the host is up."""
        return self._on_disk(resources.uptime)

    def get_host_ip_addr(self) -> str:
        """Return ``[DEFAULT] my_ip``."""
        return str(CONF.my_ip)

    # --- is it fit ---------------------------------------------------------------------------------

    def verify(self) -> list[Problem] | None:
        """Return what is wrong with the host, each with its remedy; None if it is fit."""
        problems = list(self._verify_hypervisor())
        user = fitness.qemu_user(self._known_facts[2]) if self._known_facts else None
        root = self._system_root()
        problems += self._on_disk(
            lambda: [
                *fitness.check_kvm(user, CONF.libvirt.virt_type),
                *fitness.check_storage(self._instances_path, user),
                *fitness.check_tools(root),
            ]
        )
        return problems or None

    def check_parameters(self, instance: Instance) -> list[Problem] | None:
        """Return what is wrong with a description wherever it is to run. Pure."""
        return _problems(
            instance.check,
            lambda: Properties.of(instance),
            lambda: configdrive.check(configdrive.Given(instance=instance)),
        )

    def validate_parameters(self, instance: Instance) -> list[Problem] | None:
        """Return why an instance can't run on this host."""
        return _problems(
            lambda: designer.check(instance, facts=self._facts(), settings=self._settings()),
            lambda: self._on_disk(networks.check, instance.network_info),
            lambda: self._check_filters(instance),
            lambda: self._on_disk(
                room.check,
                instance.flavor,
                self._facts().cpus,
                self._instances_path,
                local_disks.promised_bytes(instance),
            ),
            lambda: instance.image and self._images.cached(instance.image),
        )

    def get_ancillary_files(self) -> tuple[list[str], list[str]]:
        """Return the files that a host must carry and those that it may carry."""
        return ["/usr/bin/qemu-img"], ["/etc/libvirt/libvirtd.conf", "/etc/libvirt/qemu.conf"]

    def _verify_hypervisor(self) -> Iterable[Problem]:
        try:
            yield from fitness.check_versions(self._host.ask(fitness.versions))
            self._facts()
        except errors.HypervisorUnavailable as error:
            yield Problem.of(error, "start libvirtd; check [libvirt] connection_uri")
        except errors.ComputeError as error:
            yield Problem.of(error, error.hint or "see libvirtd's log")
        else:
            yield from self._verify_filtering()
        if self._host.given_up:
            yield Problem(
                message=f"{self._host.given_up} calls to libvirt were given up and have not come back",
                remedy="find the guests that hang (virsh domstate, ps), or restart libvirtd",
                severity="warning",
            )

    def _verify_filtering(self) -> Iterable[Problem]:
        """Yield why interfaces can't be filtered here; guests without such interfaces run all the same."""
        try:
            self._check_host_filters()
        except errors.UnsupportedOperation as error:
            yield Problem(message=error.message, remedy=error.hint or "", severity="warning")

    def _system_root(self) -> str:
        """Return libvirtd's root directory where it is the system's libvirtd, else nothing."""
        logs = self._log_directory()
        return logs.partition("/var/log/")[0] or "/" if logs and "/var/log/" in logs else ""


def _names(connection: libvirt.virConnect) -> list[tuple[str, str]]:
    return [(domain.UUIDString(), domain.name()) for domain in connection.listAllDomains()]


def _hostname(connection: libvirt.virConnect) -> str:
    return str(connection.getHostname())


def _problems(*checks: Callable[[], object]) -> list[Problem] | None:
    """Return what ``checks`` raise; None if nothing."""
    found = []
    for check in checks:
        try:
            check()
        except errors.ComputeError as error:
            found.append(Problem.of(error))
    return found or None
