# SPDX-License-Identifier: Apache-2.0
"""A post-copy that broke off: how long it is waited for, and what its source does about it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import libvirt
import pytest

from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.flavor import Flavor
from compute_agent.model.handshake import Fact
from compute_agent.model.instance import Instance
from compute_agent.virt.fake.virtapi import MemoryVirtAPI
from compute_agent.virt.info import LiveMigrateData
from compute_agent.virt.libvirt.migration import details, look, transfer
from compute_agent.virt.libvirt.migration.plan import Plan
from compute_agent.virt.libvirt.migration.postcopy import Stall
from compute_agent.virt.libvirt.migration.source import LibvirtMigrationSource
from compute_agent.virt.libvirt.migration.transfer import Transfer

UUID = "6a9cc7a4-1b4e-4d3c-8f5e-0d7b2f6a1c11"
INSTANCE = Instance(uuid=UUID, flavor=Flavor(vcpus=1, memory_mb=32))
PATIENCE_S = 300.0


def test_a_stall_begins_anew_when_something_has_come_and_not_when_nothing_can_be_read() -> None:
    stall = Stall(0.0)
    assert stall.note(None, 5.0) == 5.0
    assert stall.note(100, 10.0) == 0.0
    assert [stall.note(100, 25.0), stall.note(None, 30.0)] == [15.0, 20.0]
    assert [stall.note(50, 40.0), stall.note(50, 45.0)] == [0.0, 5.0]


@dataclasses.dataclass
class Libvirt:
    """What is asked of it: the guest's state, and how much of its memory is left."""

    fact: Fact = Fact.SPENT
    left: int = 100
    now: float = 1000.0

    def ask(self, function: Any, *args: Any) -> Any:
        assert function is look.at_source
        return self.fact

    def ask_guest(self, uuid: str, function: Any, *args: Any) -> Any:
        return {} if function is transfer.statistics else "its name"

    def ask_monitor(self, uuid: str, function: Any, *args: Any) -> dict[str, int]:
        return {"memory_remaining": self.left}


class Source(LibvirtMigrationSource):
    """The source's part, whose transfers end as ``answers`` says as soon as they are begun."""

    def __init__(self) -> None:
        super().__init__(MemoryVirtAPI())
        self.libvirt = Libvirt()
        self._host = self.libvirt  # type: ignore[assignment]
        self.begun: list[Plan] = []
        self.becomes = Fact.MOVED

    def _begin(self, uuid: str, name: str, wanted: Plan, current: Transfer) -> None:
        self.begun.append(wanted)
        current.called = True
        self.libvirt.fact = self.becomes
        current.end()

    def move(self) -> None:
        said = details.Details(
            destination=details.Destination(address="10.0.0.2", instances_path="/srv", mark="mark"),
            source=details.Source(runs=True),
        )
        data = details.write(LiveMigrateData(instance_uuid=UUID, post_copy=True), said)
        self.live_migration(None, INSTANCE, "other", lambda *_: None, lambda *_: None, False, data)


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Iterator[Source]:
    CONF([], project="compute-agent", default_config_files=[], default_config_dirs=[])
    CONF.set_override("live_migration_post_copy_recovery", PATIENCE_S, "libvirt")
    made = Source()
    monkeypatch.setattr(time, "monotonic", lambda: made.libvirt.now)
    yield made
    CONF.clear_override("live_migration_post_copy_recovery", "libvirt")


def test_what_broke_off_is_gone_on_with(source: Source) -> None:
    source.move()
    (plan,) = source.begun
    assert plan.flags & libvirt.VIR_MIGRATE_POSTCOPY_RESUME


def test_what_nothing_comes_over_of_any_more_counts_as_gone_and_is_not_begun_again(source: Source) -> None:
    assert source.see_migration(INSTANCE, at_source=True) is Fact.SPENT
    source.libvirt.now += PATIENCE_S
    assert source.see_migration(INSTANCE, at_source=True) is Fact.OFF
    with pytest.raises(errors.MigrationFailed):
        source.move()
    assert source.begun == []


def test_as_long_as_something_comes_over_it_is_waited_for(source: Source) -> None:
    for left in (90, 80, 70):
        source.libvirt.left = left
        assert source.see_migration(INSTANCE, at_source=True) is Fact.SPENT
        source.libvirt.now += PATIENCE_S - 1
    source.libvirt.left = 60
    assert source.see_migration(INSTANCE, at_source=True) is Fact.SPENT


def test_a_guest_that_breaks_off_again_waits_as_long_again_only_if_something_came(source: Source) -> None:
    source.becomes = Fact.SPENT
    with pytest.raises(errors.MigrationFailed):
        source.move()
    source.libvirt.now += PATIENCE_S
    assert source.see_migration(INSTANCE, at_source=True) is Fact.OFF
