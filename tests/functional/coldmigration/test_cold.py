# SPDX-License-Identifier: Apache-2.0
"""Cold migration and resize of real guests, by the drivers of two hosts."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import msgspec
import pytest

from compute_agent.model import errors
from compute_agent.model.flavor import Flavor
from compute_agent.model.security_group import RuleProtocol, SecurityGroup, SecurityGroupRule
from compute_agent.model.states import PowerState
from tests.functional.coldmigration.hosts import Migration, Pair, copies, differs, files_of, write

pytestmark = pytest.mark.timeout(300)

MIB = 2**20


def test_a_guest_gets_there_with_its_disks_and_leaves_nothing_when_that_is_confirmed(
    pair: Callable[..., Pair], tmp_path: pathlib.Path
) -> None:
    both = pair()
    instance = both.spawned(Flavor(vcpus=1, memory_mb=32, root_gb=1, ephemeral_gb=1, swap_mb=8))
    both.one.call(both.one.driver.power_off, instance)
    for number, name in enumerate(("disk", "disk.eph0")):
        write(both.one.directory(instance) / name, 3, 5, number + 1)
    before = copies(both.one.directory(instance), tmp_path / "before", ("disk", "disk.eph0", "disk.swap"))
    both.one.call(both.one.driver.power_on, None, instance, None)
    moved = Migration(both, instance)
    assert moved.fact() == "runs"
    moved.check()
    moved.receive()
    moved.receive()  # harmless
    moved.set_aside()
    assert moved.fact() == "set_aside" and moved.fact(at_source=False) == "absent"
    moved.send()
    assert moved.fact() == "moved"
    assert both.one.directory(instance).exists() is False
    moved.finish(power_on=False)
    there = both.other.directory(instance)
    assert [name for name, copy in before.items() if differs(there / name, copy)] == []
    moved.finish()
    moved.finish()  # harmless
    assert both.other.state_of(instance) is PowerState.RUNNING
    assert [name for name in files_of(there) if name.endswith(".part")] == []
    moved.confirm()
    moved.confirm()  # harmless
    assert both.one.left_of(instance) == []
    assert sorted(both.other.left_of(instance)) == sorted(["domain", instance.uuid])


def test_a_revert_brings_back_exactly_what_was(pair: Callable[..., Pair]) -> None:
    both = pair()
    instance = both.spawned(Flavor(vcpus=1, memory_mb=32, root_gb=1, swap_mb=8))
    both.one.call(both.one.driver.power_off, instance)
    write(both.one.directory(instance) / "disk", 3, 5, 7)
    before = files_of(both.one.directory(instance), but=("owner", "console.log"))
    definition = both.one.definition(instance)
    moved = both.moved(instance, Flavor(vcpus=2, memory_mb=48, root_gb=2, swap_mb=16))
    grown = both.other.domain(instance).xml()
    assert grown.findtext("vcpu") == "2" and grown.findtext("memory") == str(48 * 1024)
    moved.revert()
    assert both.other.left_of(instance) == []
    assert both.one.state_of(instance) is PowerState.RUNNING
    both.one.call(both.one.driver.power_off, instance)
    assert files_of(both.one.directory(instance), but=("owner", "console.log")) == before
    assert both.one.definition(instance) == definition


def test_what_was_set_aside_is_put_back_where_nothing_was_given_away(pair: Callable[..., Pair]) -> None:
    both = pair()
    instance = both.spawned(Flavor(vcpus=1, memory_mb=32, root_gb=1))
    definition = both.one.definition(instance)
    moved = Migration(both, instance)
    moved.check()
    moved.receive()
    moved.send()
    moved.put_back()
    moved.put_back()  # harmless
    moved.drop()
    moved.drop()  # harmless
    assert moved.fact() == "runs" and both.one.definition(instance) == definition
    assert sorted(both.one.left_of(instance)) == sorted(["domain", instance.uuid])
    assert both.other.left_of(instance) == []


def test_shared_storage_moves_nothing(pair: Callable[..., Pair]) -> None:
    both = pair(shared=True)
    instance = both.spawned(Flavor(vcpus=1, memory_mb=32, root_gb=1, swap_mb=8))
    inode = (both.one.directory(instance) / "disk").stat().st_ino
    moved = both.moved(instance)
    assert moved.data.is_shared_instance_path and not moved.data.details["disks"]
    assert (both.other.directory(instance) / "disk").stat().st_ino == inode
    assert b'"host":"other"' in (both.other.directory(instance) / "owner").read_bytes()
    moved.revert()
    assert both.one.state_of(instance) is PowerState.RUNNING
    assert b'"host":"one"' in (both.one.directory(instance) / "owner").read_bytes()
    again = both.moved(instance, Flavor(vcpus=1, memory_mb=32, root_gb=2, swap_mb=8))
    again.confirm()
    assert both.other.state_of(instance) is PowerState.RUNNING
    assert sorted(both.one.left_of(instance)) == [instance.uuid]  # the files of both


@pytest.mark.usefixtures("filtered_by_others")
def test_what_can_not_be_is_refused_before_anything_is_touched(pair: Callable[..., Pair]) -> None:
    both = pair()
    instance = both.spawned(Flavor(vcpus=1, memory_mb=32, root_gb=2, ephemeral_gb=2))
    for flavor, why in (
        (Flavor(vcpus=1, memory_mb=32, root_gb=1, ephemeral_gb=2), "disk would have to shrink"),
        (Flavor(vcpus=1, memory_mb=32, root_gb=2, ephemeral_gb=1), "disk.eph0 would have to shrink"),
        (Flavor(vcpus=1, memory_mb=32, root_gb=2), "would lose disk.eph0"),
        (Flavor(vcpus=1, memory_mb=2**24, root_gb=2, ephemeral_gb=2), "memory"),
    ):
        moved = Migration(both, instance, flavor)
        with pytest.raises(errors.MigrationRefused, match=why):
            moved.check()
        assert moved.fact() == "runs"
    group = SecurityGroup(id="web", rules=[SecurityGroupRule(protocol=RuleProtocol.TCP, port_range_min=80)])
    ruled = msgspec.structs.replace(instance, security_groups=[group])
    with pytest.raises(errors.MigrationRefused, match="rules of security groups"):  # nobody would apply them
        Migration(both, ruled, instance.flavor).check()
    assert both.other.left_of(instance) == []


def test_files_that_were_placed_elsewhere_since_are_not_taken_back(pair: Callable[..., Pair]) -> None:
    both = pair(shared=True)
    instance = both.spawned(Flavor(vcpus=1, memory_mb=32, root_gb=1))
    moved = Migration(both, instance)
    for part in (moved.check, moved.receive, moved.send):
        part()
    owner = both.one.directory(instance) / "owner"
    owner.write_text('{"host": "third", "generation": 7, "operation_id": "evacuation"}')
    for part in (moved.finish, moved.put_back):
        with pytest.raises(errors.StaleGeneration):
            part()
    assert b"third" in owner.read_bytes()
    assert instance.uuid not in both.one.hypervisor.domains() | both.other.hypervisor.domains()
