# SPDX-License-Identifier: Apache-2.0
"""Rescue and unrescue, an exact pair."""

import copy

import pytest

from compute_agent.model import errors
from compute_agent.model.states import InstanceState, PowerState
from tests.unit.virt.fake.conftest import PLAIN_IMAGE, Host, make_instance


def rescue(host: Host, instance: object) -> None:
    host.driver.rescue(None, instance, [], PLAIN_IMAGE, "secret")  # type: ignore[arg-type]


def test_a_rescued_guest_boots_from_the_rescue_image_its_own_disk_second(host: Host) -> None:
    instance = host.spawn()
    rescue(host, instance)
    assert host.events == ["Stopped", "Started"]
    devices = host.driver.hypervisor.get(instance.uuid).devices
    assert (devices["vda"].source, devices["vdb"].source) == ("disk.rescue", "disk")


def test_unrescue_puts_back_exactly_what_was(host: Host) -> None:
    instance = host.spawn()
    before = copy.deepcopy(host.driver.hypervisor.get(instance.uuid).devices)
    files = host.world.directories[instance.uuid]
    rescue(host, instance)
    host.driver.unrescue(instance, instance.network_info)
    assert host.events == ["Stopped", "Started"] * 2
    assert host.driver.hypervisor.get(instance.uuid).devices == before
    assert host.world.directories[instance.uuid] == files


def test_repeating_either_is_harmless(host: Host) -> None:
    instance = host.spawn()
    host.driver.unrescue(instance, [])
    assert host.events == []
    rescue(host, instance)
    assert host.events == ["Stopped", "Started"]
    rescue(host, instance)
    assert host.events == []
    host.driver.unrescue(instance, [])
    host.driver.unrescue(instance, [])
    assert host.events == ["Stopped", "Started"]


@pytest.mark.parametrize("step", ["disk", "stop", "define", "start"])
def test_a_rescue_that_fails_leaves_the_guest_as_it_was(host: Host, step: str) -> None:
    instance = host.spawn()
    before = copy.deepcopy(host.driver.hypervisor.get(instance.uuid).devices)
    files = host.world.directories[instance.uuid]
    host.driver.faults.fail(f"rescue.{step}", times=1)
    with pytest.raises(errors.HypervisorError):
        rescue(host, instance)
    domain = host.driver.hypervisor.get(instance.uuid)
    assert (domain.power, domain.devices, domain.own_devices) == (PowerState.RUNNING, before, None)
    assert host.world.directories[instance.uuid] == files


@pytest.mark.parametrize("step", ["stop", "define", "disk", "start"])
def test_an_interrupted_unrescue_is_finished_by_the_next(host: Host, step: str) -> None:
    instance = host.spawn()
    before = copy.deepcopy(host.driver.hypervisor.get(instance.uuid).devices)
    rescue(host, instance)
    host.driver.faults.fail(f"unrescue.{step}", times=1)
    with pytest.raises(errors.HypervisorError):
        host.driver.unrescue(instance, [])
    host.driver.unrescue(instance, [])
    domain = host.driver.hypervisor.get(instance.uuid)
    assert (domain.power, domain.devices) == (PowerState.RUNNING, before)
    assert "disk.rescue" not in host.world.directories[instance.uuid].disks


def test_an_unknown_instance_is_not_found(host: Host) -> None:
    with pytest.raises(errors.InstanceNotFound):
        rescue(host, make_instance())


def test_those_rescued_for_too_long_are_unrescued(host: Host) -> None:
    old, fresh = host.spawn(), host.spawn()
    for instance, since in ((old, "2020-01-01T00:00:00.000000Z"), (fresh, "2999-01-01T00:00:00.000000Z")):
        rescue(host, instance)
        host.virtapi.put(instance, InstanceState.RESCUED, updated_at=since)
    host.driver.poll_rescued_instances(60)
    assert host.driver.hypervisor.get(old.uuid).own_devices is None
    assert host.driver.hypervisor.get(fresh.uuid).own_devices is not None
