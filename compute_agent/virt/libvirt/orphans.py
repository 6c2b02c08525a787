# SPDX-License-Identifier: Apache-2.0
"""Orphans: domains and directories that no record accounts for. Listed, and left alone until asked for."""

import os
import re
from collections.abc import Collection

import libvirt

from compute_agent.model import errors
from compute_agent.model.states import PowerState
from compute_agent.virt.info import Description, Orphan
from compute_agent.virt.libvirt import fencing, guest, metadata, rescue
from compute_agent.virt.libvirt.coldmigration import aside
from compute_agent.virt.libvirt.filtering import nwfilter
from compute_agent.virt.libvirt.filtering.design import prefix_of
from compute_agent.virt.libvirt.lifecycle import LibvirtLifecycle
from compute_agent.virt.libvirt.paths import InstancePaths, is_instance_directory

_ORPHAN_ID = re.compile(r"(domain|directory|aside|filter):([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
_REMOVED = "_del"


class LibvirtOrphans(LibvirtLifecycle):
    """What is at the hypervisor and on its disks beside the record."""

    def get_description(self, uuid: str) -> Description | None:
        """Return what spawn left in a domain's metadata; None for one that has nothing of ours.

        :raises InstanceNotFound: if there is no such domain
        """
        name, state, xml = self._host.ask_guest(uuid, _describe)
        found = metadata.read(xml)
        if found is None:
            return None
        return Description(
            uuid=uuid,
            name=name,
            instance=found.instance,
            generation=found.generation,
            operation_id=found.operation_id,
            power_state=state,
            rescued=rescue.shows(xml, InstancePaths(self._instances_path, uuid)),
        )

    def list_orphans(self, known: Collection[str] = ()) -> list[Orphan]:
        """Return domains, directories, filters and what cold migrations set aside, of none of ``known``.

        Another host's are no orphans, nor are the filters of a domain, which go with it.
        """
        domains = {seen.uuid: seen for seen in self._host.ask(guest.see_all)}
        made = [
            Orphan(kind="domain", id=f"domain:{seen.uuid}", detail=f"{seen.name}, {seen.state.name.lower()}")
            for seen in domains.values()
            if seen.uuid not in known
        ]
        for uuid, detail in self._on_disk(_directories, self._instances_path, known):
            made.append(Orphan(kind="directory", id=f"directory:{uuid}", detail=detail))
        for uuid, detail in self._on_disk(_set_aside, self._instances_path, known):
            made.append(Orphan(kind="aside", id=f"aside:{uuid}", detail=detail))
        for uuid in sorted(self._host.ask(nwfilter.filtered) - domains.keys() - set(known)):
            made.append(Orphan(kind="filter", id=f"filter:{uuid}", detail=f"{prefix_of(uuid)}*"))
        return made

    def destroy_orphan(self, orphan_id: str) -> None:
        """Remove a domain (its disks stay, as a directory), a directory that no domain goes with, filters, or
        what a cold migration has set aside.

        :raises InvalidArguments: if it is not an id that :meth:`list_orphans` gives
        :raises InvalidState: if a directory's domain is still there
        :raises WrongHost: if a directory is another host's
        """
        found = _ORPHAN_ID.fullmatch(orphan_id)
        if found is None:
            raise errors.InvalidArguments(f"not the id of an orphan: {orphan_id[:80]!r}")
        kind, uuid = found.groups()
        if kind == "domain":
            self._stop_if_there(uuid)
            self._undefine(uuid)
            return
        if kind == "aside":
            self._on_disk(aside.remove, InstancePaths(self._instances_path, uuid))
            return
        if kind == "filter":
            self._drop_filters(uuid)
            return
        if self._power_state(uuid) is not None:
            raise errors.InvalidState(
                "the directory's domain is still there", hint="destroy the domain first"
            )
        self._on_disk(fencing.remove, InstancePaths(self._instances_path, uuid))


def _describe(domain: libvirt.virDomain) -> tuple[str, PowerState, str]:
    return domain.name(), guest.observe(domain), guest.definition(domain)


def _directories(instances_path: str, known: Collection[str]) -> list[tuple[str, str]]:
    """Return the directories of none of ``known``, half-deleted ones too, by uuid. In a native thread."""
    try:
        entries = os.listdir(instances_path)
    except FileNotFoundError:
        return []
    names = {entry.removesuffix(_REMOVED) for entry in entries}
    unknown = sorted(name for name in names if is_instance_directory(name) and name not in known)
    found = [(uuid, InstancePaths(instances_path, uuid)) for uuid in unknown]
    return [(uuid, paths.directory) for uuid, paths in found if not fencing.is_anothers(paths)]


def _set_aside(instances_path: str, known: Collection[str]) -> list[tuple[str, str]]:
    """Return what this host has set aside of none of ``known``, by uuid. In a native thread."""
    found = [InstancePaths(instances_path, uuid) for uuid in aside.every(instances_path)]
    return [(paths.uuid, aside.directory(paths)) for paths in found if paths.uuid not in known]
