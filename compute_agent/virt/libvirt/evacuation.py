# SPDX-License-Identifier: Apache-2.0
"""Evacuation: an instance whose host is off comes to this one, on the disks that both hosts see.

Whose the disks are stands beside them (see `fencing`). It is taken over before the guest starts, for a later
placement than the one that stands there: from then on the old host, when it comes back, neither starts the
guest nor removes its files. What fails gives it back. Without shared disks an evacuation is a spawn.
"""

import os

import msgspec

from compute_agent.model import errors
from compute_agent.steps import Step
from compute_agent.virt.images import usage
from compute_agent.virt.libvirt import admission, disks, fencing, files
from compute_agent.virt.libvirt.spawn import Spawn

NOTE = "evacuated"
_OF_SPAWN = ("check", "kernel", "volumes", "define", "start")


class Before(msgspec.Struct, frozen=True, kw_only=True):
    """Whose the files were; None: nobody's."""

    owner: files.Owner | None


class Evacuation(Spawn):
    """A spawn on disks that are there."""

    def steps(self) -> list[Step]:
        """Return the parts."""
        made = {step.name: step for step in super().steps()}
        made["owner"] = Step("owner", self._take_over, self._has_directory, self._drop_directory)
        return [made[name] for name in ("check", "owner", *_OF_SPAWN[1:]) if name in made]

    def _check_unused(self) -> None:
        taken = self._driver._host.ask(admission.who_has, self._uuid, self._instance.name)
        if taken is not None:
            raise errors.InstanceExists(f"the hypervisor has a domain of that {taken}")
        self._driver._on_disk(self._check_disks)

    def _check_disks(self) -> None:
        """In a native thread."""
        owner = files.read_owner(self._paths)
        if owner is None and files.is_there(self._paths.owner):
            fencing.check(self._paths)
        if owner is not None and owner.generation >= self._instance.generation:
            raise errors.StaleGeneration(
                f"the files of the instance belong to host {owner.host} with generation {owner.generation}; "
                "a higher one is needed"
            )
        for disk in disks.of(self._instance, self._paths, self._driver._settings()):
            if os.path.dirname(disk.source) == self._paths.directory:
                _check_disk(disk.source)

    def _take_over(self) -> None:
        self._driver._on_disk(self._write_owner)

    def _write_owner(self) -> None:
        """In a native thread."""
        files.write_note(self._paths, NOTE, Before(owner=files.read_owner(self._paths)))
        files.make_directory(self._paths, fencing.owner(self._instance.generation, self._token))

    def _drop_directory(self) -> None:
        """The files stay: whose they were they are again."""
        if self._has_directory():
            self._driver._on_disk(self._give_back)

    def _give_back(self) -> None:
        """In a native thread."""
        before = files.read_note(self._paths, NOTE, Before)
        if before is None or before.owner is None:
            files.drop_note(self._paths, os.path.basename(self._paths.owner))
        else:
            files.make_directory(self._paths, before.owner)
        files.drop_note(self._paths, NOTE)


def _check_disk(path: str) -> None:
    base = usage.backing_of(path) if files.is_there(path) else None
    if base is None:
        raise errors.PreconditionFailed(
            f"the storage of this host has no disk {path}", hint="disks=recreate makes them from the image"
        )
    if base and not files.is_there(base):
        raise errors.PreconditionFailed(f"disk {path} stands on an image that this host does not see: {base}")
