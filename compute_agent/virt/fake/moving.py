# SPDX-License-Identifier: Apache-2.0
"""A guest passes from one fake hypervisor to another."""

from typing import Any

import msgspec

from compute_agent.model.states import PowerState
from compute_agent.virt import event as virt_event
from compute_agent.virt.fake.hypervisor import Hypervisor
from compute_agent.virt.fake.world import Directory, Domain


def make_room(hypervisor: Hypervisor, uuid: str) -> None:
    """Make an empty directory for an instance that is to come."""
    hypervisor.effect("make_directory", uuid, directories=Directory(token="incoming"))


def hand_over(source: Hypervisor, dest: Hypervisor, uuid: str) -> None:
    """Let a guest go on at another host: held here, run there, then struck here.

    :raises InsufficientResources: if the other host has no room; the guest goes on here
    """
    domain = source.get(uuid)
    was, since = domain.power, domain.running_since
    source.effect("hold", uuid, domain={"power": PowerState.PAUSED, "running_since": None})
    try:
        _arrive(dest, domain, source.world.directories.get(uuid), was, since)
    except Exception:
        source.effect("go_on", uuid, domain={"power": was, "running_since": since})
        raise
    source.effect("leave", uuid, domain=None)


def _arrive(
    dest: Hypervisor, domain: Domain, files: Directory | None, power: PowerState, since: float | None
) -> None:
    dest.check_room(domain)
    here = dest.world.directories.get(domain.uuid, Directory())
    moved = msgspec.structs.replace(here, token=domain.token, disks=files.disks if files else {})
    changes = fields(domain) | {"power": power, "running_since": since}
    dest.effect("arrive", domain.uuid, domain=changes, directories=moved)
    started = power is PowerState.RUNNING
    transition = virt_event.EVENT_LIFECYCLE_STARTED if started else virt_event.EVENT_LIFECYCLE_PAUSED
    dest.tell(domain.uuid, transition)


def fields(domain: Domain) -> dict[str, Any]:
    """Return all that a guest is, but its uuid."""
    return {name: value for name, value in msgspec.structs.asdict(domain).items() if name != "uuid"}
