# SPDX-License-Identifier: Apache-2.0
"""The fake driver, put together from its concerns."""

from compute_agent.virt.fake.consoles import FakeConsoles
from compute_agent.virt.fake.diagnostics import FakeDiagnostics
from compute_agent.virt.fake.guest import FakeGuest
from compute_agent.virt.fake.host import FakeHost
from compute_agent.virt.fake.lifecycle import FakeLifecycle
from compute_agent.virt.fake.migration import FakeMigration
from compute_agent.virt.fake.network import FakeNetwork
from compute_agent.virt.fake.power import FakePower
from compute_agent.virt.fake.rescue import FakeRescue
from compute_agent.virt.fake.snapshots import FakeSnapshots
from compute_agent.virt.fake.storage import FakeStorage


class FakeDriver(
    FakeLifecycle,
    FakeRescue,
    FakeStorage,
    FakeSnapshots,
    FakeNetwork,
    FakeConsoles,
    FakeMigration,
    FakePower,
    FakeGuest,
    FakeHost,
    FakeDiagnostics,
):
    """A hypervisor in memory; see the package for what it can be told."""

    capabilities: dict[str, bool] = {  # noqa: RUF012 -- as declared by the contract
        "has_imagecache": True,
        "supports_recreate": True,
        "supports_migrate_to_same_host": True,
        "supports_attach_interface": True,
        "supports_device_tagging": False,
        "supports_tagged_attach_interface": False,
        "supports_tagged_attach_volume": False,
        "supports_extend_volume": True,
        "supports_multiattach": False,
        "supports_live_migration": True,
    }
