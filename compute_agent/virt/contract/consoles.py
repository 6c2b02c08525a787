# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="empty-body"
"""Consoles: what a guest writes, and where its screen is served."""

from typing import Any

from compute_agent.model.instance import Instance
from compute_agent.virt.contract.base import Base, Context, unsupported
from compute_agent.virt.info import Console


class Consoles(Base):
    """Output of the serial console; addresses of VNC, SPICE and serial consoles.

    Every ``get_*_console`` raises `InstanceNotFound` if there is no such guest and
    `InvalidState` if it is off or has no console of that kind.
    """

    @unsupported
    def get_console_output(self, context: Context, instance: Instance) -> bytes:
        """Return the end of what the guest wrote to its serial console, bounded.

        :raises InstanceNotFound: if there is no such guest

        Contract: Diablo, Icehouse, Mitaka, Queens.
        """

    @unsupported
    def get_vnc_console(self, context: Context, instance: Instance) -> Console:
        """Return where the guest's screen is served over VNC.

        Contract: Icehouse, Mitaka, Queens; Ganeti's GetInstanceConsole.
        """

    @unsupported
    def get_spice_console(self, context: Context, instance: Instance) -> Console:
        """Return where the guest's screen is served over SPICE.

        Contract: Icehouse, Mitaka, Queens; Ganeti's GetInstanceConsole.
        """

    @unsupported
    def get_serial_console(self, context: Context, instance: Instance) -> Console:
        """Return where the guest's serial port is served over TCP.

        Contract: Mitaka, Queens; Ganeti's GetInstanceConsole.
        """

    @unsupported
    def get_rdp_console(self, context: Context, instance: Instance) -> Console:
        """Return where the guest's screen is served over RDP (Hyper-V only).

        Contract: Icehouse, Mitaka, Queens.
        """

    @unsupported
    def get_mks_console(self, context: Context, instance: Instance) -> Console:
        """Return where the guest's screen is served over MKS (VMware only).

        Contract: Mitaka, Queens.
        """

    @unsupported
    def get_console_pool_info(self, console_type: str) -> dict[str, Any]:
        """Return address, user and password of a pool of console proxies (XenAPI only).

        Contract: Diablo, Icehouse, Mitaka, Queens.
        """
