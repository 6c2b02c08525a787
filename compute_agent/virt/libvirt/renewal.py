# SPDX-License-Identifier: Apache-2.0
"""What rescue and rebuild have in common: a guest ends, and comes again with another definition.

The domain stays the same one all the while: its definition is replaced, never taken away, so uuid, name and
libvirt's own notes stay, and nothing is lost where the agent is killed. The work's token (the operation's id)
stands in each definition that is made here: that tells the next attempt how far this one came.
"""

import functools
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING

import libvirt

from compute_agent import steps
from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.model.states import PowerState
from compute_agent.model.vif import Vif
from compute_agent.virt.libvirt import designer, disks, files, guest, metadata
from compute_agent.virt.libvirt.designer import DirectBoot, GuestDisk
from compute_agent.virt.libvirt.spawn import DIRECT

if TYPE_CHECKING:
    from compute_agent.virt.libvirt.lifecycle import LibvirtLifecycle

UP = frozenset({PowerState.RUNNING, PowerState.PAUSED})


class Renewal:
    """One such work.

    :param vifs: the guest's interfaces
    """

    def __init__(self, driver: "LibvirtLifecycle", instance: Instance, vifs: Sequence[Vif]) -> None:
        self._driver = driver
        self._instance = instance.named()
        self._vifs = list(vifs)
        self._paths = driver._paths(instance)
        self._uuid = instance.uuid

    @functools.cached_property
    def _token(self) -> str:
        return steps.current().operation_id or f"{DIRECT}{uuid.uuid4().hex}"

    def _check_own(self) -> None:
        """Refuse what is not ours to renew: another host's disks, or a guest whose disks we did not make.

        :raises WrongHost, StaleGeneration, InvalidState: as `fencing.check`
        :raises UnsupportedOperation: if somebody else made the guest
        """
        self._driver._check_networks(self._vifs)
        self._driver._check_ours(self._instance)
        self._driver._check_volumes(self._instance, runs_too=True)
        if not self._driver._on_disk(files.is_there, self._paths.owner):
            raise errors.UnsupportedOperation(
                "the agent did not make this guest: it does not know which disks it has",
                hint="adopted guests can be switched on and off, and destroyed",
            )

    # --- the definition ----------------------------------------------------------------------------

    def _definition(self) -> str | None:
        """Return the XML of the next start; None if there is no such domain."""
        try:
            return self._driver._host.ask_guest(self._uuid, guest.definition)
        except errors.InstanceNotFound:
            return None

    def _made_by_us(self, definition: str | None) -> bool:
        """Whether this very work has made a definition."""
        found = None if definition is None else metadata.read(definition)
        return found is not None and found.operation_id == self._token

    def _own_disks(self) -> list[GuestDisk]:
        """Return the disks that the instance has when it runs as itself."""
        return self._driver._on_disk(disks.of, self._instance, self._paths, self._driver._settings())

    def _design(self, attached: Sequence[GuestDisk], boot: DirectBoot | None) -> str:
        domain = designer.design(
            self._instance,
            facts=self._driver._facts(),
            settings=self._driver._settings(),
            paths=self._paths,
            disks=attached,
            vifs=self._vifs,
            boot=boot,
            operation_id=self._token,
        )
        return domain.to_xml()

    def _define(self, xml: str) -> None:
        self._driver._host.act(_define, xml)

    # --- power -------------------------------------------------------------------------------------

    def _is_up(self) -> bool:
        return self._driver._power_state(self._uuid) in UP

    def _end(self) -> None:
        """End the guest, and drop what suspend saved of it: that would come back with the old disks."""
        self._driver._stop(self._uuid)
        self._driver._host.act_guest(self._uuid, guest.drop_save)

    def _start(self, paused: bool = False) -> None:
        try:
            self._driver._start(self._instance, self._vifs, paused)
        except errors.HypervisorError as error:
            raise self._driver._with_last_words(error, self._instance) from error


def _define(connection: libvirt.virConnect, xml: str) -> None:
    connection.defineXML(xml)
