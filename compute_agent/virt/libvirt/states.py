# SPDX-License-Identifier: Apache-2.0
"""What libvirt's numbers for a domain's state, and for the reason of it, mean."""

import libvirt

from compute_agent.model.states import PowerState

_POWER_STATES = {
    libvirt.VIR_DOMAIN_NOSTATE: PowerState.NOSTATE,
    libvirt.VIR_DOMAIN_RUNNING: PowerState.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: PowerState.RUNNING,
    libvirt.VIR_DOMAIN_SHUTDOWN: PowerState.RUNNING,  # on its way down: it runs until it is off
    libvirt.VIR_DOMAIN_PAUSED: PowerState.PAUSED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: PowerState.PAUSED,
    libvirt.VIR_DOMAIN_SHUTOFF: PowerState.SHUTDOWN,
    libvirt.VIR_DOMAIN_CRASHED: PowerState.CRASHED,
}
_CRASHED = (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_CRASHED)
_STARTING = (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP)


def power_state(state: int, reason: int, saved: bool) -> PowerState:
    """Return the power state for libvirt's state and reason, and whether there is a managed save."""
    if saved and state == libvirt.VIR_DOMAIN_SHUTOFF:
        return PowerState.SUSPENDED
    if (state, reason) == _CRASHED:
        return PowerState.CRASHED
    return _POWER_STATES.get(state, PowerState.NOSTATE)


def is_starting(state: int, reason: int) -> bool:
    """Return whether a domain is in the middle of its start.

    Where libvirtd was killed right then, the next one keeps the domain like that for ever. It takes no job
    but its end; not even that, if libvirtd had not come to start QEMU (both seen with libvirt 9.0).
    """
    return (state, reason) == _STARTING
