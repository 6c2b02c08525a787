# SPDX-License-Identifier: Apache-2.0
"""The fake hosts of this process, by name: two fake drivers can move guests to each other."""

import weakref
from typing import TYPE_CHECKING, Any

from compute_agent.model import errors

if TYPE_CHECKING:
    from compute_agent.virt.fake.base import FakeBase

_HOSTS: "weakref.WeakValueDictionary[str, FakeBase]" = weakref.WeakValueDictionary()


def register(host: str, driver: "FakeBase") -> None:
    """Make a host known by its name."""
    _HOSTS[host] = driver


def forget(host: str, driver: "FakeBase") -> None:
    """Strike a host, if it is still that one."""
    if _HOSTS.get(host) is driver:
        del _HOSTS[host]


def find(host: str) -> "FakeBase":
    """Return a host.

    :raises DestinationUnreachable: if there is none of that name, or its hypervisor is away
    """
    driver = _HOSTS.get(host)
    if driver is None or driver.hypervisor.away is not None:
        raise errors.DestinationUnreachable(f"no fake host {host} answers")
    return driver


def other(host: str) -> "FakeBase | None":
    """Return any host but the one named ``host``."""
    found = (_HOSTS.get(name) for name in sorted(_HOSTS.keys()) if name != host)
    return next((driver for driver in found if driver is not None), None)


def move_away(source: "FakeBase", uuid: str, dest: "FakeBase") -> None:
    """Move a running guest to another host, with all that an agent would call at both ends."""
    description = source.get_description(uuid)
    if description is None or description.instance is None:
        raise errors.MigrationRefused(f"guest {uuid} has no description to move it by")
    instance = description.instance
    here = source.get_available_resource(source.host)
    there = dest.get_available_resource(dest.host)
    data = dest.check_can_live_migrate_destination(None, instance, here, there, block_migration=None)
    data = source.check_can_live_migrate_source(None, instance, data)
    dest.pre_live_migration(None, instance, None, instance.network_info, None, data)

    def post(*_arguments: Any) -> None:
        source.post_live_migration(None, instance, None, data)
        source.post_live_migration_at_source(None, instance, instance.network_info)
        dest.post_live_migration_at_destination(None, instance, instance.network_info)

    def recover(*_arguments: Any) -> None:
        dest.rollback_live_migration_at_destination(None, instance, instance.network_info, None)

    source.live_migration(None, instance, dest.host, post, recover, data.block_migration, data)
