# SPDX-License-Identifier: Apache-2.0
"""Live migration at the destination: the checks, the preparations, and what becomes of a guest that came."""

import contextlib
import time
from collections.abc import Mapping
from typing import Any

import libvirt
import msgspec

from compute_agent import steps
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.handshake import Fact
from compute_agent.model.instance import Instance
from compute_agent.steps import Step
from compute_agent.virt.contract.base import BlockDeviceInfo, Context, NetworkInfo
from compute_agent.virt.images import disks as image_disks
from compute_agent.virt.info import LiveMigrateData
from compute_agent.virt.libvirt import (
    admission,
    design_devices,
    designer,
    events,
    files,
    guest,
    local_disks,
    room,
)
from compute_agent.virt.libvirt.migration import checks, details, guestxml, look, storage
from compute_agent.virt.libvirt.migration.base import LibvirtMigrationBase
from compute_agent.virt.libvirt.migration.details import Destination, Details, Source
from compute_agent.virt.libvirt.paths import InstancePaths
from compute_agent.virt.libvirt.volumes import connect as volumes
from compute_agent.virt.libvirt.volumes import connection as volumes_of

ARRIVING = storage.ARRIVING
_REST_S, _REST_LOOK_S = 5.0, 0.1
"""How long the end of a post-copy is waited for at a time, and how often it is looked at."""


class Arriving(msgspec.Struct, frozen=True, kw_only=True):
    """A guest that is to come; ``runs``: it is not paused."""

    runs: bool


class LibvirtMigrationDestination(LibvirtMigrationBase):
    """The destination's part of the live migration concern."""

    # --- before --------------------------------------------------------------------------------------

    def check_can_live_migrate_destination(
        self,
        context: Context,
        instance: Instance,
        src_compute_info: Mapping[str, Any],
        dst_compute_info: Mapping[str, Any],
        block_migration: bool | None = False,
        disk_over_commit: bool = False,
    ) -> LiveMigrateData:
        """See whether a guest may come; leaves a mark by which the source tells shared storage."""
        with checks.refusing():
            checks.same_kind(src_compute_info, dst_compute_info)
            self._check_room_for(instance.named())
        data = LiveMigrateData(
            instance_uuid=instance.uuid,
            source_host=str(src_compute_info.get("hypervisor_hostname", "")),
            dest_host=CONF.host_name,
            block_migration=bool(block_migration),
            disk_over_commit=disk_over_commit,
        )
        return details.write(data, Details(asked=block_migration, destination=self._as_destination()))

    def _check_room_for(self, instance: Instance) -> None:
        facts = self._facts()
        self._check_filters(instance)
        self._check_absent(instance)
        self._on_disk(checks.has_memory, instance)
        needed = local_disks.promised_bytes(instance)
        self._on_disk(room.check, instance.flavor, facts.cpus, self._instances_path, needed)
        designer.check(instance, facts=facts, settings=self._settings())
        self._check_networks(instance.network_info)

    def _check_absent(self, instance: Instance) -> None:
        taken = self._host.ask(admission.who_has, instance.uuid, instance.name)
        if taken is not None:
            raise errors.MigrationRefused(f"the hypervisor has a domain of that {taken}")

    def _as_destination(self) -> Destination:
        settings = self._settings()
        listen = {"vnc": settings.vnc_listen, "spice": settings.spice_listen}
        return Destination(
            address=CONF.libvirt.live_migration_inbound_addr or CONF.my_ip,
            instances_path=self._instances_path,
            mark=self._on_disk(storage.leave_mark, self._instances_path),
            free_bytes=self._on_disk(room.disk, self._instances_path).free,
            listen={kind: address for kind, address in listen.items() if address},  # type: ignore[misc]
            libvirt=self._host.ask(look.libvirt_version),
        )

    def cleanup_live_migration_destination_check(
        self, context: Context, dest_check_data: LiveMigrateData
    ) -> None:
        """Remove the mark."""
        found = details.read(dest_check_data).destination
        mark = found.mark if found else storage.name_of_mark()
        self._on_disk(storage.remove_mark, self._instances_path, mark)

    def pre_live_migration(
        self,
        context: Context,
        instance: Instance,
        block_device_info: BlockDeviceInfo,
        network_info: NetworkInfo,
        disk_info: Any,
        migrate_data: LiveMigrateData | None,
    ) -> LiveMigrateData | None:
        """Get ready for a guest."""
        steps.run(
            self.pre_live_migration_steps(
                context, instance, block_device_info, network_info, disk_info, migrate_data
            )
        )
        assert migrate_data is not None
        found = details.read(migrate_data)
        bridges = {vif.address.lower(): vif.bridge for vif in network_info or () if vif.bridge}
        to = msgspec.structs.replace(
            details.destination(migrate_data),
            bridges=bridges,
            filters=self._filters_of(instance, network_info),
            volumes=self._places(instance),
        )
        return details.write(migrate_data, Details(asked=found.asked, destination=to, source=found.source))

    def _places(self, instance: Instance) -> dict[str, str]:
        """Return where this host finds the instance's volumes."""
        disks = volumes_of.guest_disks(instance, self._paths(instance))
        return {disk.serial: design_devices.place_of(disk).to_xml() for disk in disks if disk.serial}

    def pre_live_migration_steps(
        self,
        context: Context,
        instance: Instance,
        block_device_info: BlockDeviceInfo,
        network_info: NetworkInfo,
        disk_info: Any,
        migrate_data: LiveMigrateData | None,
    ) -> list[Step]:
        """Return the parts of :meth:`pre_live_migration`."""
        if migrate_data is None:
            raise errors.InvalidArguments("the migration has not been checked")
        coming = details.source(migrate_data)
        drop = lambda: self._drop_files(instance, migrate_data)  # noqa: E731
        made = [Step("check", lambda: self._check_coming(instance, network_info, coming), undo=drop)]
        noted = Step("note", lambda: self._note(instance, coming))
        if not migrate_data.is_shared_instance_path:
            made += [
                Step("directory", lambda: self._make_directory(instance)),
                Step("disks", lambda: self._make_disks(instance, coming)),
                Step("files", lambda: self._unpack(instance, coming)),
            ]
        else:
            made.append(Step("storage", lambda: self._check_storage(instance)))
        if instance.block_device_mapping:
            made.append(
                Step(
                    "volumes",
                    lambda: volumes.connect_all(self, instance),
                    undo=lambda: volumes.disconnect_all(self, instance),
                )
            )
        made.append(
            Step(
                "filters",
                lambda: self.ensure_filtering_rules_for_instance(instance, network_info),
                undo=lambda: self._drop_filters(instance.uuid),
            )
        )
        return [*made, noted]

    def _unpack(self, instance: Instance, coming: Source) -> None:
        paths = self._paths(instance)
        self._on_disk(storage.unpack, paths, coming.files)
        self._on_disk(storage.go_on_from, paths, coming.console)

    def _note(self, instance: Instance, coming: Source) -> None:
        """Note what is not told a second time: whether the guest is to run when it is ours."""
        self._on_disk(files.write_note, self._paths(instance), ARRIVING, Arriving(runs=coming.runs))

    def _check_coming(self, instance: Instance, network_info: NetworkInfo, coming: Source) -> None:
        with checks.refusing():
            facts = self._facts()
            self._check_networks(network_info)
            if coming.machine not in facts.machines:
                raise errors.MigrationRefused(f"this hypervisor has no machine type {coming.machine}")
            if coming.cpu is not None:
                cpu = guestxml.comparable_cpu(coming.cpu)
                self._host.act(checks.processor_fits, cpu, facts.arch, facts.virt_type)

    def _check_storage(self, instance: Instance) -> None:
        directory = self._paths(instance).directory
        if not self._on_disk(files.is_there, directory):
            raise errors.MigrationRefused(f"the instance's files can't be seen here: {directory}")

    def _make_directory(self, instance: Instance) -> None:
        paths, token = self._paths(instance), steps.current().operation_id or ""
        if not self._is_made_for_this(paths) and not self._on_disk(files.is_free, paths):
            raise errors.MigrationRefused(f"files of the instance are here already: {paths.directory}")
        claim = files.Owner(host=CONF.host_name, generation=instance.generation, operation_id=token)
        self._on_disk(files.make_directory, paths, claim)

    def _is_made_for_this(self, paths: InstancePaths) -> bool:
        """Return whether the files are those that this very migration has made here."""
        owner = self._on_disk(files.read_owner, paths)
        token = steps.current().operation_id or ""
        return owner is not None and owner.host == CONF.host_name and owner.operation_id == token

    def _make_disks(self, instance: Instance, coming: Source) -> None:
        """Make the disks that QEMU fills. They stand on nothing: what they stood on is copied too."""
        paths = self._paths(instance)
        for disk in coming.disks:
            path = paths.file(disk.name)
            if not self._on_disk(files.is_there, path):
                image_disks.create_blank(path, disk.size_bytes, disk.format)

    # --- after ---------------------------------------------------------------------------------------

    def post_live_migration_at_destination(
        self,
        context: Context,
        instance: Instance,
        network_info: NetworkInfo,
        block_migration: bool = False,
        block_device_info: BlockDeviceInfo = None,
    ) -> None:
        """At the destination: the guest is ours now, runs, and stays."""
        steps.run(self.post_live_migration_at_destination_steps(instance, network_info))

    def post_live_migration_at_destination_steps(
        self, instance: Instance, network_info: NetworkInfo
    ) -> list[Step]:
        """Return the parts of :meth:`post_live_migration_at_destination`; the guest waits for three of them.

        Its filters are in place already; rules that were told meanwhile reach them before it runs.
        """
        return [
            Step("claim", lambda: self._claim(instance)),
            Step("rules", lambda: self.ensure_filtering_rules_for_instance(instance, network_info)),
            Step("run", lambda: self._let_run(instance)),
            Step("define", lambda: self._host.act_guest(instance.uuid, _make_permanent)),
            Step("describe", lambda: self.set_description(instance)),
            Step("forget", lambda: self._on_disk(files.drop_note, self._paths(instance), ARRIVING)),
        ]

    def _claim(self, instance: Instance) -> None:
        """Put our name on the files: from now on no other host starts a guest on them."""
        token = steps.current().operation_id or ""
        owner = files.Owner(host=CONF.host_name, generation=instance.generation, operation_id=token)
        self._on_disk(files.make_directory, self._paths(instance), owner)

    def _let_run(self, instance: Instance) -> None:
        uuid = instance.uuid
        self._await_memory(uuid)
        noted = self._on_disk(files.read_note, self._paths(instance), ARRIVING, Arriving)
        if noted is None or not noted.runs:
            return  # it was paused when it left, or all of this was done before
        with self._relay.expecting(
            uuid, events.STARTED, lambda: self._host.ask(look.at_destination, uuid) is Fact.RUNS
        ) as expected:
            fact = self._host.act_guest(uuid, _go_on, expected)
        if fact is Fact.BUSY:
            raise errors.DeviceBusy("libvirt is not done yet with receiving the guest")

    def _await_memory(self, uuid: str) -> None:
        """Wait for the end of a post-copy; it is there to the end, or is said not to be there yet."""
        until = time.monotonic() + _REST_S
        while self._host.ask(look.at_destination, uuid) is Fact.PARTIAL:
            if time.monotonic() > until:
                raise errors.DeviceBusy("a part of the guest's memory is still at the source")
            steps.current().sleep(_REST_LOOK_S)

    def rollback_live_migration_at_destination(
        self,
        context: Context,
        instance: Instance,
        network_info: NetworkInfo,
        block_device_info: BlockDeviceInfo,
        destroy_disks: bool = True,
        migrate_data: LiveMigrateData | None = None,
    ) -> None:
        """At the destination: drop what came, which never ran, and what was made for it."""
        if self._host.ask(look.at_destination, instance.uuid) in (Fact.RUNS, Fact.PARTIAL):
            raise errors.InvalidState("the guest runs here")
        self._drop_guest(instance.uuid)
        volumes.disconnect_all(self, instance)
        if destroy_disks and migrate_data is not None:
            self._drop_files(instance, migrate_data)

    def _drop_guest(self, uuid: str) -> None:
        with contextlib.suppress(errors.InstanceNotFound):
            self._host.act_guest(uuid, _drop)
        self._undefine(uuid)

    def _drop_files(self, instance: Instance, data: LiveMigrateData) -> None:
        """Remove what was made for a guest that does not come; on shared storage that is nothing."""
        paths = self._paths(instance)
        if data.is_shared_instance_path:
            self._on_disk(files.drop_note, paths, ARRIVING)
            return
        if self._is_made_for_this(paths) or self._on_disk(files.is_free, paths):
            self._on_disk(files.remove_directory, paths)


def _go_on(domain: libvirt.virDomain, expected: events.Expectation) -> Fact:
    """Let the guest run if it is held. One that has ended in the meantime is started by nobody here."""
    fact = look.at_destination(domain.connect(), domain.UUIDString())
    if fact is Fact.HELD:
        guest.unpause(domain, expected)
    return fact


def _make_permanent(domain: libvirt.virDomain) -> None:
    """Define the guest as it runs: until now it would have been forgotten when it went off."""
    if domain.isPersistent():
        return
    flags = (
        libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE | libvirt.VIR_DOMAIN_XML_MIGRATABLE
    )
    domain.connect().defineXML(domain.XMLDesc(flags))


def _drop(domain: libvirt.virDomain) -> None:
    """End what came and was held. Nobody is told: it never ran here."""
    if domain.isActive():
        domain.destroy()
