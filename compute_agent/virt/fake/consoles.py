# SPDX-License-Identifier: Apache-2.0
"""Consoles of fake guests."""

from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.virt.contract.base import Context
from compute_agent.virt.fake.base import FakeBase
from compute_agent.virt.info import Console

FIRST_PORT = {"vnc": 5900, "spice": 15900, "serial": 25900}
PORTS = 10_000


class FakeConsoles(FakeBase):
    """The consoles concern. The addresses lead nowhere."""

    def get_console_output(self, context: Context, instance: Instance) -> bytes:
        """Return the end of what the guest wrote."""
        return self.hypervisor.get(instance.uuid).console.encode()

    def get_vnc_console(self, context: Context, instance: Instance) -> Console:
        """Return where the guest's screen would be served over VNC."""
        return self._console(instance, "vnc")

    def get_spice_console(self, context: Context, instance: Instance) -> Console:
        """Return where the guest's screen would be served over SPICE."""
        return self._console(instance, "spice")

    def get_serial_console(self, context: Context, instance: Instance) -> Console:
        """Return where the guest's serial port would be served."""
        return self._console(instance, "serial")

    def _console(self, instance: Instance, kind: str) -> Console:
        domain = self.hypervisor.get(instance.uuid)
        if not domain.is_up:
            raise errors.InvalidState(f"the instance is off: it is {domain.power.name}")
        port = FIRST_PORT[kind] + int(instance.uuid[:8], 16) % PORTS
        return Console(type=kind, host=CONF.my_ip, port=port)
