# SPDX-License-Identifier: Apache-2.0
"""One rebuild on the fake host: the same instance, made anew from another image.

Once the old disks have gone, what was before is not brought back if it fails, and that is said. Which attempt
made disks and guest shows in their token, so an interrupted one goes on.
"""

from compute_agent.model import errors
from compute_agent.steps import Step
from compute_agent.virt.fake import storage
from compute_agent.virt.fake.spawn import Spawn
from compute_agent.virt.fake.world import Directory


class Rebuild(Spawn):
    """One rebuild: a spawn over a guest that is there."""

    preserve_ephemeral = False
    _was_up = False

    def steps(self) -> list[Step]:
        """Return the parts."""
        made = []
        if self._image is not None:
            made.append(self._step("image", self._fetch, done=self._cached, detail=self._to_fetch))
        made += [
            self._step("stop", self._end, done=self._is_defined, undo=self._run_again),
            self._step("disks", self._make_disks, done=self._has_disks, undo=self._admit_loss),
            self._step("network", self._plug),
            self._step("volumes", self._connect),
            self._step("define", self._define, done=self._is_defined, detail=self._definition),
            self._step("start", self._start, done=self._is_started),
        ]
        return made

    def _end(self) -> None:
        found = self._hypervisor.find(self._uuid)
        if found is not None:
            self._was_up = found.is_up
            self._hypervisor.stop(self._uuid)

    def _run_again(self) -> None:
        if self._was_up and not self._has_disks():
            self._hypervisor.start(self._uuid)

    def _admit_loss(self) -> None:
        if self._has_disks():
            raise errors.HypervisorError("the old disks are gone")

    def _make_disks(self) -> None:
        before = self._hypervisor.world.directories.get(self._uuid, Directory())
        kept = {
            name: disk
            for name, disk in before.disks.items()
            if self.preserve_ephemeral and name.startswith("disk.eph")
        }
        old_size = sum(disk.size for disk in before.disks.values())
        storage.check_room(self._hypervisor, self._design.size - old_size)
        made = Directory(self._token, {**self._design.disks, **kept}, before.aside, before.aside_disks)
        self._hypervisor.effect("make_disks", self._uuid, directories=made)
