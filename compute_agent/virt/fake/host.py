# SPDX-License-Identifier: Apache-2.0
"""Host: the fake host's resources, its state, and all its guests at once."""

import json
import logging
import pathlib
import time
from collections.abc import Collection
from typing import Any

import msgspec

from compute_agent import concurrency
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.model.states import PowerState
from compute_agent.virt import configdrive
from compute_agent.virt.fake import described, design, diagnostics, network, peers
from compute_agent.virt.fake.base import FakeBase
from compute_agent.virt.fake.hypervisor import free_bytes
from compute_agent.virt.info import Description, InstanceInfo, Orphan, Problem

LOG = logging.getLogger(__name__)

VERSION = 1_000_000
CPU_INFO = {"arch": "x86_64", "model": "fake", "vendor": "fake", "features": ["fake"]}
TRAITS = ["COMPUTE_NET_ATTACH_INTERFACE", "COMPUTE_VOLUME_EXTEND", "CUSTOM_FAKE"]
DIRECTORY = "directory:"
NETWORK = "interface:"
ACTIONS = ("reboot", "shutdown", "startup", "powercycle")


class FakeHost(FakeBase):
    """The host concern."""

    _poller: concurrency.Task | None = None

    # --- the driver's own life -----------------------------------------------------------------------

    def init_host(self, host: str) -> None:
        """Get going, and see what others write into the ledger."""
        self.host = host
        peers.register(host, self)
        if self.ledger is not None and CONF.fake.poll_interval and self._poller is None:
            self._poller = concurrency.spawn(self._poll)

    def cleanup_host(self, host: str) -> None:
        """Let go of the ledger. The guests stay in it."""
        if self._poller is not None:
            self._poller.kill()
            self._poller = None
        self._relay.drain()
        peers.forget(self.host, self)
        self.hypervisor.close()

    def _poll(self) -> None:
        while True:
            concurrency.sleep(CONF.fake.poll_interval)
            try:
                self.poll_outside()
            except OSError:
                LOG.exception("the ledger could not be read")

    # --- all guests ----------------------------------------------------------------------------------

    def get_all_info(self) -> dict[str, InstanceInfo]:
        """Return what the hypervisor shows of every guest."""
        domains = self.hypervisor.world.domains
        return {uuid: diagnostics.info(self.hypervisor, domain) for uuid, domain in domains.items()}

    def list_instances(self) -> list[str]:
        """Return the names of all guests."""
        return list(self.hypervisor.world.uuids)

    def list_instance_uuids(self) -> list[str]:
        """Return the uuids of all guests."""
        return list(self.hypervisor.world.domains)

    def get_num_instances(self) -> int:
        """Return how many guests there are."""
        return len(self.hypervisor.world.domains)

    def get_description(self, uuid: str) -> Description | None:
        """Return what spawn left at the hypervisor about a guest."""
        domain = self.hypervisor.find(uuid)
        return described.read(domain) if domain is not None else None

    def list_orphans(self, known: Collection[str] = ()) -> list[Orphan]:
        """Return what belongs to none of ``known``."""
        world = self.hypervisor.world
        strange = [domain for uuid, domain in world.domains.items() if uuid not in known]
        found = [Orphan(kind="domain", id=domain.uuid, detail=domain.name) for domain in strange]
        for kind, prefix, table in (
            ("directory", DIRECTORY, world.directories.keys()),
            ("interface", NETWORK, world.plugged.keys() | world.filters.keys()),
        ):
            left = sorted(uuid for uuid in table if uuid not in known and uuid not in world.domains)
            found += [Orphan(kind=kind, id=prefix + uuid, detail=uuid) for uuid in left]
        return found

    def destroy_orphan(self, orphan_id: str) -> None:
        """Remove an orphan: a guest with its files, a directory, or interfaces."""
        uuid = orphan_id.removeprefix(DIRECTORY).removeprefix(NETWORK)
        if uuid == orphan_id:
            if self.hypervisor.find(uuid) is None:
                return
            self.hypervisor.stop(uuid)
            self.hypervisor.undefine(uuid)
            self.hypervisor.effect("remove", uuid, directories=None, plugged=None, filters=None, volumes=None)
        elif orphan_id.startswith(DIRECTORY):
            self.hypervisor.effect("remove_files", uuid, directories=None)
        else:
            self.hypervisor.effect("unplug", uuid, plugged=None, filters=None)

    # --- resources -----------------------------------------------------------------------------------

    def get_available_resource(self, nodename: str) -> dict[str, Any]:
        """Return what the host has and how much of it is in use."""
        size, world = self.hypervisor.size, self.hypervisor.world
        used_mb = world.memory_kb // 1024
        used_gb = world.disk_bytes // design.GIB
        return {
            "vcpus": size.vcpus,
            "vcpus_used": world.vcpus,
            "memory_mb": size.memory_mb,
            "memory_mb_used": used_mb,
            "local_gb": size.local_gb,
            "local_gb_used": used_gb,
            "disk_available_least": free_bytes(self.hypervisor) // design.GIB,
            "running_vms": sum(domain.is_up for domain in world.domains.values()),
            "hypervisor_type": "fake",
            "hypervisor_version": VERSION,
            "hypervisor_hostname": self.host,
            "cpu_info": json.dumps(CPU_INFO),
            "supported_instances": [("x86_64", "fake", "hvm")],
            "numa_topology": None,
            "memory_total": size.memory_mb,
            "memory_free": size.memory_mb - used_mb,
            "memory_dom0": 0,
        }

    def get_inventory(self, nodename: str) -> dict[str, dict[str, Any]]:
        """Return the resource classes."""
        size = self.hypervisor.size
        return {
            "VCPU": _inventory(size.vcpus, 0, CONF.host.cpu_allocation_ratio),
            "MEMORY_MB": _inventory(
                size.memory_mb, CONF.host.reserved_memory_mb, CONF.host.ram_allocation_ratio
            ),
            "DISK_GB": _inventory(size.local_gb, -(-CONF.host.reserved_disk_mb // 1024), 1.0),
        }

    def get_traits(self, nodename: str) -> list[str]:
        """Return what the host can do."""
        return list(TRAITS)

    def get_available_nodes(self, refresh: bool = False) -> list[str]:
        """Return the name of the one node: the host's."""
        return [self.host]

    def get_host_cpu_stats(self) -> dict[str, int]:
        """Return processor times: of a host that is idle for nine tenths of its time."""
        since_boot = time.monotonic_ns() * self.hypervisor.size.vcpus
        tenth = since_boot // 10
        return {
            "kernel": tenth // 2,
            "user": tenth // 2,
            "idle": since_boot - tenth,
            "iowait": 0,
            "frequency": 2400,
        }

    def get_host_uptime(self) -> str:
        """Return how long the real host under the fake one has been up."""
        seconds = float(pathlib.Path("/proc/uptime").read_text().split()[0])
        days, rest = divmod(int(seconds), 86400)
        return f"up {days} days, {rest // 3600}:{rest % 3600 // 60:02}"

    def get_host_ip_addr(self) -> str:
        """Return the address at which other hosts reach this one."""
        address: str = CONF.my_ip
        return address

    # --- is it fit, and may it take guests -----------------------------------------------------------

    def verify(self) -> list[Problem] | None:
        """Return what is wrong with the host."""
        if self.hypervisor.away is None:
            return None
        message = f"the hypervisor does not answer: {self.hypervisor.away}"
        away = errors.HypervisorUnavailable(message)
        return [Problem.of(away, 'append {"hypervisor": "back"} to the ledger')]

    def check_parameters(self, instance: Instance) -> list[Problem] | None:
        """Return what is wrong with an instance's description wherever it is to run."""
        try:
            instance.check()
            design.design(instance.named(), instance.image, None)
            configdrive.check(configdrive.Given(instance=instance))
        except errors.ComputeError as error:
            return [Problem.of(error)]
        return None

    def validate_parameters(self, instance: Instance) -> list[Problem] | None:
        """Return why an instance can't run on this host."""
        size, flavor = self.hypervisor.size, instance.flavor
        found = []
        least = flavor.min_memory_mb or flavor.memory_mb
        free_mb = size.memory_mb - self.hypervisor.world.memory_kb // 1024
        if least > free_mb:
            found.append(_lack(f"{least} MiB are asked for, {free_mb} are free"))
        free_vcpus = size.vcpus - self.hypervisor.world.vcpus
        if flavor.vcpus > free_vcpus:
            found.append(_lack(f"{flavor.vcpus} processors are asked for, {free_vcpus} are free"))
        try:
            network.check(instance.network_info)
        except errors.NetworkUnavailable as error:
            found.append(Problem.of(error))
        return found or None

    def get_ancillary_files(self) -> tuple[list[str], list[str]]:
        """Return the files of the host: its ledger, if it has one."""
        return [], [self.ledger.path] if self.ledger else []

    def set_host_enabled(self, enabled: bool) -> str:
        """Let the host take new guests, or not."""
        self._set_host(enabled=enabled)
        return "enabled" if enabled else "disabled"

    def host_maintenance_mode(self, host: str, mode: bool) -> str:
        """Move every guest to another fake host of this process and take no new ones, or take them again.

        :raises MigrationRefused: if there is no other host; nothing was changed
        """
        up = [domain.uuid for domain in self.hypervisor.world.domains.values() if domain.is_up]
        peer = peers.other(self.host) if mode and up else None
        if mode and up and peer is None:
            raise errors.MigrationRefused("there is no other host to take the guests")
        self._set_host(enabled=not mode, maintenance=mode)
        if peer is not None:
            for uuid in up:
                peers.move_away(self, uuid, peer)
        return "on_maintenance" if mode else "off_maintenance"

    def _set_host(self, **changes: Any) -> None:
        host = msgspec.structs.replace(self.hypervisor.world.host, **changes)
        if host != self.hypervisor.world.host:
            self.hypervisor.effect("host", None, host=host)

    def host_power_action(self, action: str) -> str:
        """Restart the fake host or switch it off: its guests go down without a word."""
        if not CONF.host.allow_power_actions:
            raise errors.PermissionDenied("[host] allow_power_actions is off on this host")
        if action not in ACTIONS:
            raise errors.InvalidArguments(f"not a power action: {action}")
        if action != "startup":
            self.hypervisor.lose(f"the host was told: {action}")
            self._drop_guests()
        if action != "shutdown":
            self.hypervisor.regain("the host has booted")
        return action

    def _drop_guests(self) -> None:
        for domain in list(self.hypervisor.world.domains.values()):
            if domain.is_up:
                changes = {"power": PowerState.SHUTDOWN, "running_since": None}
                self.hypervisor.effect("host_down", domain.uuid, domain=changes)


def _inventory(total: int, reserved: int, ratio: float) -> dict[str, Any]:
    return {
        "total": total,
        "reserved": min(reserved, total),
        "min_unit": 1,
        "max_unit": total,
        "step_size": 1,
        "allocation_ratio": ratio,
    }


def _lack(message: str) -> Problem:
    return Problem.of(errors.InsufficientResources(message))
