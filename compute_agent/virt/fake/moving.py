# SPDX-License-Identifier: Apache-2.0
"""A guest passes from one fake hypervisor to another."""

from typing import Any

import msgspec

from compute_agent import failpoints
from compute_agent.model import clock
from compute_agent.model.states import PowerState
from compute_agent.virt import event as virt_event
from compute_agent.virt.fake.hypervisor import Hypervisor
from compute_agent.virt.fake.world import Directory, Domain


def make_room(hypervisor: Hypervisor, uuid: str) -> None:
    """Make an empty directory for an instance that is to come."""
    hypervisor.effect("make_directory", uuid, directories=Directory(token="incoming"))


def hand_over(source: Hypervisor, dest: Hypervisor, uuid: str, held: str | None = None) -> None:
    """Let a guest go on at another host: held here, run there, then struck here.

    :param held: the other host's name: it stays held there, and what is left here is off, until
        :func:`go_on` and :func:`leave`
    :raises InsufficientResources: if the other host has no room; the guest goes on here
    """
    domain = source.get(uuid)
    was, since = domain.power, domain.running_since
    source.effect("hold", uuid, domain={"power": PowerState.PAUSED, "running_since": None})
    failpoints.hit("fake.migration.held")
    try:
        _arrive(dest, domain, source.world.directories.get(uuid), was, None if held else since, bool(held))
    except Exception:
        source.effect("go_on", uuid, domain={"power": was, "running_since": since})
        raise
    failpoints.hit("fake.migration.arrived")
    left = {"power": PowerState.SHUTDOWN, "running_since": None, "moved_to": held} if held else None
    source.effect("leave", uuid, domain=left)


def _arrive(
    dest: Hypervisor,
    domain: Domain,
    files: Directory | None,
    power: PowerState,
    since: float | None,
    held: bool,
) -> None:
    dest.check_room(domain)
    here = dest.world.directories.get(domain.uuid, Directory())
    moved = msgspec.structs.replace(here, token=domain.token, disks=files.disks if files else {})
    shown = {"power": PowerState.PAUSED, "held_from": power} if held else {"power": power}
    changes = fields(domain) | {"running_since": since} | shown
    dest.effect("arrive", domain.uuid, domain=changes, directories=moved)
    if not held:
        _tell_how_it_goes_on(dest, domain.uuid, power)


def go_on(dest: Hypervisor, uuid: str) -> None:
    """Let a guest that arrived held be as it was before. Safe to repeat."""
    was = dest.get(uuid).held_from
    if was is None:
        return
    since = clock.unix() if was is PowerState.RUNNING else None
    dest.effect("go_on", uuid, domain={"power": was, "running_since": since, "held_from": None})
    _tell_how_it_goes_on(dest, uuid, was)


def let_fall(dest: Hypervisor, uuid: str) -> None:
    """Strike a guest that arrived held and is not to go on. Safe to repeat."""
    domain = dest.find(uuid)
    if domain is not None and domain.held_from is not None:
        dest.effect("let_fall", uuid, domain=None)


def leave(source: Hypervisor, uuid: str) -> None:
    """Strike what is left of a guest that was moved away held. Safe to repeat."""
    domain = source.find(uuid)
    if domain is not None and domain.moved_to is not None:
        source.effect("left", uuid, domain=None)


def _tell_how_it_goes_on(dest: Hypervisor, uuid: str, power: PowerState) -> None:
    runs = power is PowerState.RUNNING
    dest.tell(uuid, virt_event.EVENT_LIFECYCLE_STARTED if runs else virt_event.EVENT_LIFECYCLE_PAUSED)


def fields(domain: Domain) -> dict[str, Any]:
    """Return all that a guest is, but its uuid."""
    return {name: value for name, value in msgspec.structs.asdict(domain).items() if name != "uuid"}
