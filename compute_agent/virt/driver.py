# SPDX-License-Identifier: Apache-2.0
"""The driver contract, put together, and how the configured driver is found."""

import importlib
import importlib.metadata
import importlib.util
import logging
import sys
from collections.abc import Iterable
from typing import Any, ClassVar, NoReturn

from compute_agent.conf import CONF
from compute_agent.virt.block_device import (
    block_device_info_get_ephemerals,
    block_device_info_get_mapping,
    block_device_info_get_root,
    block_device_info_get_root_device,
    block_device_info_get_swap,
    get_block_device_info,
    swap_is_usable,
)
from compute_agent.virt.contract.compat import Compat
from compute_agent.virt.contract.consoles import Consoles
from compute_agent.virt.contract.diagnostics import Diagnostics
from compute_agent.virt.contract.guest import Guest
from compute_agent.virt.contract.host import Host
from compute_agent.virt.contract.lifecycle import Lifecycle
from compute_agent.virt.contract.migration import Migration
from compute_agent.virt.contract.network import Network
from compute_agent.virt.contract.power import Power
from compute_agent.virt.contract.rescue import Rescue
from compute_agent.virt.contract.snapshots import Snapshots
from compute_agent.virt.contract.storage import Storage
from compute_agent.virt.contract.verbs import verbs_of
from compute_agent.virt.info import InstanceInfo
from compute_agent.virt.virtapi import VirtAPI

__all__ = [
    "ComputeDriver",
    "InstanceInfo",
    "block_device_info_get_ephemerals",
    "block_device_info_get_mapping",
    "block_device_info_get_root",
    "block_device_info_get_root_device",
    "block_device_info_get_swap",
    "compute_driver_matches",
    "driver_dict_from_config",
    "get_block_device_info",
    "is_xenapi",
    "load_compute_driver",
    "swap_is_usable",
]

LOG = logging.getLogger(__name__)

PACKAGE = "compute_agent.virt"
ENTRY_POINTS = "compute_agent.drivers"


class ComputeDriver(
    Compat,
    Lifecycle,
    Power,
    Rescue,
    Storage,
    Snapshots,
    Network,
    Consoles,
    Migration,
    Guest,
    Host,
    Diagnostics,
):
    """What every driver inherits: the contract's concerns, with their defaults.

    A driver's class is put together from a class per concern and this one, in this order, so that
    what the driver fills in comes first. Members raise errors of
    :mod:`compute_agent.model.errors` only, and block their greenthread, never the hub.
    """

    capabilities: dict[str, bool] = {  # noqa: RUF012 -- an instance may have its own
        "has_imagecache": False,
        "supports_recreate": False,
        "supports_migrate_to_same_host": False,
        "supports_attach_interface": False,
        "supports_device_tagging": False,
        "supports_tagged_attach_interface": False,
        "supports_tagged_attach_volume": False,
        "supports_extend_volume": False,
        "supports_multiattach": False,
        "supports_live_migration": False,
    }
    """What a driver can do. Contract: Icehouse, Mitaka, Queens; Ganeti's CAN_MIGRATE."""

    requires_allocation_refresh: ClassVar[bool] = False
    """Whether a scheduler's claims have to be read again. Contract: Queens."""

    rebalances_nodes: ClassVar[bool] = False
    """Whether nodes move between the agents of a cluster. Contract: Queens."""

    def supported_verbs(self) -> frozenset[str]:
        """Return the verbs of the interface that the driver really does.

        Our own.
        """
        return verbs_of(type(self))


def load_compute_driver(virtapi: VirtAPI, compute_driver: str | None = None) -> ComputeDriver:
    """Make the configured driver.

    :param compute_driver: a name below ``compute_agent.virt`` (``fake.FakeDriver``), an entry point of
        the group ``compute_agent.drivers`` (``fake``), or a full dotted path; default: the option
    :raises SystemExit: with status 1, after a message that names the option, if there is no such driver

    Contract: Icehouse, Mitaka, Queens.
    """
    name = compute_driver or CONF.compute_driver
    if not name:
        _give_up("it is not set")
    try:
        driver = _find(name)(virtapi)
    except Exception as error:
        LOG.debug("the driver could not be loaded", exc_info=True)
        _give_up(f"{name} can't be loaded: {type(error).__name__}: {error}")
    if not isinstance(driver, ComputeDriver):
        _give_up(f"{name} is not a driver: it does not inherit {ComputeDriver.__qualname__}")
    LOG.info("the driver is %s", name)
    return driver


def _give_up(problem: str) -> NoReturn:
    LOG.critical("[DEFAULT] compute_driver: %s. Drivers of this agent: %s.", problem, ", ".join(_known()))
    sys.exit(1)


def _known() -> Iterable[str]:
    found = {point.name for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}
    return sorted(found | {"libvirt.LibvirtDriver", "fake.FakeDriver"})


def _find(name: str) -> Any:
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS, name=name):
        return point.load()
    module, dot, attribute = name.rpartition(".")
    if not dot:
        raise ValueError(f"no entry point of {ENTRY_POINTS} has this name")
    if importlib.util.find_spec(f"{PACKAGE}.{module.partition('.')[0]}") is not None:
        module = f"{PACKAGE}.{module}"
    return getattr(importlib.import_module(module), attribute)


def compute_driver_matches(match: str) -> bool:
    """Return whether the configured driver's name ends with ``match``.

    Contract: Icehouse.
    """
    return bool(CONF.compute_driver and CONF.compute_driver.endswith(match))


def is_xenapi() -> bool:
    """Return whether the configured driver is XenAPI's.

    Contract: Mitaka, Queens.
    """
    return compute_driver_matches("xenapi.XenAPIDriver")


def driver_dict_from_config(named_driver_config: Iterable[str], *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Make the objects that entries of the form ``type=dotted.path`` name, by type.

    :param args, kwargs: given to each constructor
    :raises ValueError: if an entry has another form
    :raises ImportError, AttributeError: if there is no such class

    Contract: Icehouse, Mitaka.
    """
    made = {}
    for entry in named_driver_config:
        kind, equals, path = entry.partition("=")
        module, dot, attribute = path.strip().rpartition(".")
        if not (equals and dot):
            raise ValueError(f"not TYPE=DOTTED.PATH: {entry}")
        made[kind.strip()] = getattr(importlib.import_module(module), attribute)(*args, **kwargs)
    return made
