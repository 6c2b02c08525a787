# SPDX-License-Identifier: Apache-2.0
"""One evacuation to the fake host, on disks that are there: they stayed when the instance was destroyed."""

import msgspec

from compute_agent.model import errors
from compute_agent.virt.fake import network
from compute_agent.virt.fake.spawn import Spawn
from compute_agent.virt.fake.world import Directory


class Evacuation(Spawn):
    """A spawn that takes over a directory, and gives it back if it fails."""

    def _check(self) -> None:
        world = self._hypervisor.world
        if self._uuid in world.domains:
            raise errors.InstanceExists("the hypervisor has a guest of that uuid")
        if self._instance.name in world.uuids:
            raise errors.InstanceExists("the hypervisor has a guest of that name")
        if self._uuid not in world.directories:
            raise errors.PreconditionFailed(
                "the storage of this host has no disks of the instance", hint="disks=recreate makes them"
            )
        network.check(self._vifs)

    def _make_disks(self) -> None:
        self._own(self._token)

    def _drop_disks(self) -> None:
        if self._owns_directory():
            self._own(None)

    def _own(self, token: str | None) -> None:
        found = self._hypervisor.world.directories.get(self._uuid, Directory())
        self._hypervisor.effect(
            "make_disks", self._uuid, directories=msgspec.structs.replace(found, token=token)
        )
