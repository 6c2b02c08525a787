# SPDX-License-Identifier: Apache-2.0
"""Cold migration at the source: the checks, the setting aside, the sending, and the way back.

The guest's definition is noted before anything of it is touched, so from any instant on it can be put back
exactly. What is set aside goes only with `confirm_migration`.
"""

import os
from collections.abc import Callable

import libvirt
import msgspec

from compute_agent import steps
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.flavor import Flavor
from compute_agent.model.instance import Instance
from compute_agent.steps import Step
from compute_agent.virt.contract.base import BlockDeviceInfo, Context, NetworkInfo
from compute_agent.virt.images import process
from compute_agent.virt.info import LiveMigrateData, MigrationStatus
from compute_agent.virt.libvirt import fencing, files, guest, keys, local_disks
from compute_agent.virt.libvirt.coldmigration import aside, details, listing, receiving, transit
from compute_agent.virt.libvirt.coldmigration.base import LibvirtColdBase
from compute_agent.virt.libvirt.coldmigration.details import MANIFEST, Details, Manifest, Moved, Way
from compute_agent.virt.libvirt.coldmigration.sending import Pace, Sending
from compute_agent.virt.libvirt.coldmigration.sending import Way as Route
from compute_agent.virt.libvirt.migration import checks, guestxml, storage
from compute_agent.virt.libvirt.paths import InstancePaths
from compute_agent.virt.libvirt.volumes import connect as volumes
from compute_agent.virt.virtapi import VirtAPI


class LibvirtColdSource(LibvirtColdBase):
    """The source's part of the cold migration concern."""

    def __init__(self, virtapi: VirtAPI) -> None:
        super().__init__(virtapi)
        self._sendings: dict[str, MigrationStatus] = {}

    # --- before --------------------------------------------------------------------------------------

    def check_can_send_disks(
        self,
        context: Context,
        instance: Instance,
        data: LiveMigrateData,
        block_device_info: BlockDeviceInfo = None,
        flavor: Flavor | None = None,
    ) -> LiveMigrateData:
        """See whether a guest may go, and which files have to go over."""
        found = details.read(data)
        to = self._said(found)
        with checks.refusing():
            self._check_movable(instance)
            data.is_shared_instance_path = self._on_disk(storage.sees_mark, self._instances_path, to.mark)
            if to.aside:  # it goes back: what is there is all that is needed
                return data
            sizes = self._check_disks(instance, flavor)
            moved = self._moved(instance, sizes, data.is_shared_instance_path, to.keys_mark)
            bases = self._on_disk(listing.bases, moved, self._images.directory)
            needed = sum(file.used_bytes for file in moved)
            if needed > to.free_bytes:
                raise errors.MigrationRefused(
                    f"the disks take {needed // checks.MIB} MiB, "
                    f"the destination has {to.free_bytes // checks.MIB} MiB free"
                )
        data.is_volume_backed = local_disks.boots_from_volume(instance)
        return details.write(data, Details(destination=to, disks=moved, bases=bases))

    def _check_movable(self, instance: Instance) -> None:
        process.find("qemu-nbd")
        self._check_ours(instance)
        if not self._on_disk(files.is_there, self._paths(instance).owner):
            raise errors.MigrationRefused(
                "the agent did not make this guest: it does not know which disks it has"
            )
        definition = self._host.ask_guest(instance.uuid, guest.definition)
        passed = guestxml.passed_through(guestxml.parsed(definition))
        if passed:
            raise errors.MigrationRefused(f"the guest has devices of the host: {', '.join(passed)}")

    def _check_disks(self, instance: Instance, flavor: Flavor | None) -> dict[str, int]:
        sizes = listing.virtual_sizes(instance, self._paths(instance), self._settings())
        if flavor is not None:
            grown = msgspec.structs.replace(instance, flavor=flavor)
            listing.check_growth(grown, sizes, self._settings())
        return sizes

    def _moved(
        self, instance: Instance, sizes: dict[str, int], shared: bool, keys_mark: str | None
    ) -> list[Moved]:
        paths = self._paths(instance)
        encrypted = any(made.encrypted for made in self._on_disk(local_disks.read, paths).values())
        keys_go = encrypted and not self._shares_keys(keys_mark)
        found = self._on_disk(listing.moved, paths, paths.directory, sizes, keys_go)
        return [file for file in found if file.kind == "key" or not shared]

    # --- the move ------------------------------------------------------------------------------------

    def migrate_disk_and_power_off(
        self,
        context: Context,
        instance: Instance,
        dest: str,
        flavor: Flavor,
        network_info: NetworkInfo,
        block_device_info: BlockDeviceInfo = None,
        timeout: float = 0,
        retry_interval: float = 0,
    ) -> str:
        """Switch a guest off and set it aside; its files keep their place until they are sent."""
        steps.run(
            self.migrate_disk_and_power_off_steps(
                context, instance, dest, flavor, network_info, block_device_info, timeout, retry_interval
            )
        )
        noted = self._on_disk(aside.read, self._paths(instance))
        return noted.disks if noted else "[]"

    def migrate_disk_and_power_off_steps(
        self,
        context: Context,
        instance: Instance,
        dest: str,
        flavor: Flavor,
        network_info: NetworkInfo,
        block_device_info: BlockDeviceInfo = None,
        timeout: float = 0,
        retry_interval: float = 0,
    ) -> list[Step]:
        """Return the parts of :meth:`migrate_disk_and_power_off`. What fails is put back by
        :meth:`finish_revert_migration`, by whoever decides that.
        """
        paths = self._paths(instance)
        gone = lambda: self._power_state(instance.uuid) is None  # noqa: E731
        made = [
            Step("note", lambda: self._note_guest(instance, flavor), lambda: self._is_noted(paths)),
            Step("stop", lambda: self._stop_if_there(instance.uuid), gone),
            Step("drop_save", lambda: self._host.act_guest(instance.uuid, guest.drop_save), gone),
            Step("volumes", lambda: volumes.disconnect_all(self, instance)),
            Step("undefine", lambda: self._undefine(instance.uuid), gone),
        ]
        if timeout > 0:
            ask = lambda: self._shut_down(instance.uuid, timeout, retry_interval)  # noqa: E731
            made.insert(1, Step("ask", ask, lambda: self._is_off(instance.uuid)))
        return made

    def _note_guest(self, instance: Instance, flavor: Flavor) -> None:
        with checks.refusing():
            self._check_movable(instance)
            self._check_disks(instance, flavor)
        disks = self.get_instance_disk_info(instance)
        noted = aside.Aside(definition=self._host.ask_guest(instance.uuid, _definition), disks=disks)
        self._on_disk(aside.note, self._paths(instance), noted)

    def _is_noted(self, paths: InstancePaths) -> bool:
        return self._on_disk(aside.read, paths) is not None

    def send_disks(self, context: Context, instance: Instance, data: LiveMigrateData) -> None:
        """Bring the files over, from where they are set aside."""
        steps.run(self.send_disks_steps(instance, data))

    def send_disks_steps(self, instance: Instance, data: LiveMigrateData) -> list[Step]:
        """Return the parts of :meth:`send_disks`."""
        paths, found = self._paths(instance), details.read(data)
        made = [Step("check", lambda: self._check_aside(instance))]
        if not (data.is_shared_instance_path or self._goes_back_to_same(paths, data)):
            made.append(Step("aside", lambda: self._on_disk(aside.put, paths)))
        if found.disks and not data.reverting:
            sent = lambda: self._on_disk(aside.sent, paths) is not None  # noqa: E731
            made.append(Step("send", lambda: self._send(instance, data, found), sent))
        made.append(Step("sent", lambda: self._note_sent(paths, found)))
        made.append(Step("close", lambda: self._on_disk(transit.remove, transit.outgoing(instance.uuid))))
        return made

    def _note_sent(self, paths: InstancePaths, found: Details) -> None:
        """Note it, and whether the other host has keys of its own: they went there, or came from there."""
        came = self._on_disk(transit.read, self._files_at(paths), receiving.ARRIVED, receiving.Arrived)
        keys_there = any(file.kind == "key" for file in found.disks) or (came is not None and came.keys)
        self._on_disk(aside.note_sent, paths, keys_there)

    def _files_at(self, paths: InstancePaths) -> str:
        """Return where the instance's files are."""
        moved = aside.moved_files(paths)
        return moved if self._on_disk(files.is_there, moved) else paths.directory

    def _goes_back_to_same(self, paths: InstancePaths, data: LiveMigrateData) -> bool:
        """Whether it goes back to a host with the same storage: what is set aside there is seen here."""
        return data.reverting and self._on_disk(aside.is_there, paths, data.dest_host)

    def _check_aside(self, instance: Instance) -> None:
        paths = self._paths(instance)
        if not self._is_noted(paths) or self._power_state(instance.uuid) is not None:
            raise errors.InvalidState("the instance is not set aside")

    def _send(self, instance: Instance, data: LiveMigrateData, found: Details) -> None:
        paths, way = self._paths(instance), found.way
        if way is None:
            raise errors.InvalidArguments("the destination has opened no way for the disks")
        directory = transit.outgoing(instance.uuid)
        sent = self._what_goes(instance, data, found, way)
        manifest = Manifest(files=[file for file, _ in sent], **self._described(paths))
        self._on_disk(transit.write_secret, directory, way.secret)
        self._on_disk(transit.keep, directory, MANIFEST, manifest)
        total = sum(file.used_bytes for file, _ in sent)
        bandwidth = data.bandwidth_mib or CONF.libvirt.cold_migration_bandwidth
        route = Route(directory=directory, address=way.address, port=way.port, incarnation=way.incarnation)
        one = Sending(route, Pace(total, bandwidth, self._reporter(instance.uuid)))
        for file, path in sent:
            one.send(file.export, path)
        one.send(f"meta.{MANIFEST}", os.path.join(directory, MANIFEST))
        self._sendings[instance.uuid] = MigrationStatus(
            status="completed", transferred_disk=total, total_disk=total
        )

    def _described(self, paths: InstancePaths) -> dict[str, str]:
        noted = self._on_disk(aside.read, paths)
        return {"definition": noted.definition, "instances_path": self._instances_path} if noted else {}

    def _what_goes(
        self, instance: Instance, data: LiveMigrateData, found: Details, way: Way
    ) -> list[tuple[Moved, str]]:
        """Return what goes over as it is now, and where it lies."""
        paths, cache = self._paths(instance), self._images.directory
        keys_go = any(file.kind == "key" for file in found.disks)
        where = paths.directory if data.is_shared_instance_path else aside.moved_files(paths)
        now = self._on_disk(listing.moved, paths, where, {}, keys_go)
        now = [file for file in now if file.kind == "key" or not data.is_shared_instance_path]
        wanted = [base for base in found.bases if f"base.{base.name}" in way.wanted]
        now += [base.as_file() for base in wanted]
        missing = [file.export for file in now if file.export not in way.wanted]
        if missing:
            raise errors.MigrationFailed(
                f"the instance has other files than when it was checked: {', '.join(missing)}",
                retryable=False,
            )
        at = {"file": lambda name: os.path.join(where, name), "key": lambda name: keys.path(paths.uuid, name)}
        at["base"] = lambda name: os.path.join(cache, name)
        return [(file, at[file.kind](file.name)) for file in now]

    def _reporter(self, uuid: str) -> Callable[[int, int], None]:
        work = steps.current()

        def report(done: int, total: int) -> None:
            self._sendings[uuid] = MigrationStatus(status="running", transferred_disk=done, total_disk=total)
            work.report(done, total)

        return report

    def get_migration_status(self, instance: Instance) -> MigrationStatus:
        """Return how far a migration is, live or cold."""
        found = self._sendings.get(instance.uuid)
        return found or super().get_migration_status(instance)

    # --- after ---------------------------------------------------------------------------------------

    def confirm_migration(
        self, context: Context, migration: object, instance: Instance, network_info: NetworkInfo
    ) -> None:
        """Remove what was set aside, with its keys, and what a broken transfer has left."""
        self._sendings.pop(instance.uuid, None)
        paths = self._paths(instance)
        self._on_disk(transit.remove, transit.outgoing(instance.uuid))
        sent = self._on_disk(aside.sent, paths)
        if self._on_disk(aside.is_there, paths) and self._power_state(instance.uuid) is None:
            if sent is not None and sent.keys:
                self._on_disk(keys.remove, instance.uuid)
            self._on_disk(aside.remove, paths)

    def finish_revert_migration(
        self,
        context: Context,
        instance: Instance,
        network_info: NetworkInfo,
        block_device_info: BlockDeviceInfo = None,
        power_on: bool = True,
    ) -> None:
        """Put back what was set aside, exactly as it was."""
        steps.run(
            self.finish_revert_migration_steps(context, instance, network_info, block_device_info, power_on)
        )

    def finish_revert_migration_steps(
        self,
        context: Context,
        instance: Instance,
        network_info: NetworkInfo,
        block_device_info: BlockDeviceInfo = None,
        power_on: bool = True,
    ) -> list[Step]:
        """Return the parts of :meth:`finish_revert_migration`."""
        paths = self._paths(instance)
        noted = self._on_disk(aside.read, paths)
        made = []
        if noted is not None:
            made = [
                Step("files", lambda: self._on_disk(aside.put_back, paths)),
                Step("claim", lambda: self._claim_again(instance)),
                Step("volumes", lambda: volumes.connect_all(self, instance)),
                Step("define", lambda: self._define_again(instance, noted.definition)),
                Step("describe", lambda: self.set_description(instance)),
            ]
        if power_on:
            made.append(Step("start", lambda: self._start(instance.named(), network_info)))
        return [*made, Step("forget", lambda: self._forget(instance))]

    def _claim_again(self, instance: Instance) -> None:
        """Put our name on the files again; on shared storage the destination's may stand there."""
        token = steps.current().operation_id or ""
        owner = fencing.owner(instance.generation, token)
        self._on_disk(aside.claim, self._paths(instance), owner)

    def _define_again(self, instance: Instance, definition: str) -> None:
        if self._power_state(instance.uuid) is None:
            self._host.act(_define, definition)

    def _forget(self, instance: Instance) -> None:
        self._sendings.pop(instance.uuid, None)
        self._on_disk(transit.remove, transit.outgoing(instance.uuid))
        self._on_disk(aside.remove, self._paths(instance))


def _definition(domain: libvirt.virDomain) -> str:
    """Return what the next start uses, with its secrets: it is to be defined from this again."""
    return str(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE))


def _define(connection: libvirt.virConnect, xml: str) -> None:
    connection.defineXML(xml)
