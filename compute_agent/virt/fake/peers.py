# SPDX-License-Identifier: Apache-2.0
"""The fake hosts that guests can be moved to, by name.

Those of this process know each other. One of another process is reached by its ledger, below
``[fake] hosts_path``: what is appended there happens at that host, whether its agent runs or not.
"""

import contextlib
import os
import re
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.virt.fake.hypervisor import Hypervisor, Size
from compute_agent.virt.fake.ledger import Ledger
from compute_agent.virt.fake.outside import Outside
from compute_agent.virt.fake.relay import Relay

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


def ledger_of(host: str) -> str | None:
    """Return the path of a host's ledger; None if hosts have none that others know."""
    if not CONF.fake.hosts_path or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", host):
        return None
    return os.path.join(CONF.fake.hosts_path, f"{host}.ledger")


@contextlib.contextmanager
def reached(host: str) -> Iterator[Hypervisor]:
    """Give a host's hypervisor, wherever it is, for as long as this lasts.

    :raises DestinationUnreachable: if there is no such host, or its hypervisor is away
    """
    path = ledger_of(host)
    if host in _HOSTS or path is None or not os.path.exists(path):
        yield find(host).hypervisor
        return
    ledger = Ledger(path)
    try:
        there = Hypervisor(Relay(lambda event: None), Size.configured(), ledger)
        Outside(there).replay(ledger)
        yield there
    finally:
        ledger.close()


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
