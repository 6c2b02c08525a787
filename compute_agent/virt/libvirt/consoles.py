# SPDX-License-Identifier: Apache-2.0
"""Consoles: what the guest wrote to its first serial port. virtlogd writes the file and turns it over."""

from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.virt.contract.base import Context
from compute_agent.virt.libvirt import logs
from compute_agent.virt.libvirt.base import LibvirtBase

OUTPUT_LIMIT = 100 * 1024
"""Bytes of console output that are given at most."""


class LibvirtConsoles(LibvirtBase):
    """The consoles concern."""

    def get_console_output(self, context: Context, instance: Instance) -> bytes:
        """Return the last :data:`OUTPUT_LIMIT` bytes of the console. libvirt need not be there for it.

        :raises InstanceNotFound: if there is neither output nor a guest
        """
        output = self._on_disk(logs.rotated_tail, self._paths(instance).console_log, OUTPUT_LIMIT)
        if output is None and self._power_state(instance.uuid) is None:
            raise errors.InstanceNotFound(f"there is no domain {instance.uuid}")
        return output or b""
