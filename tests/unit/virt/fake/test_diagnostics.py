# SPDX-License-Identifier: Apache-2.0
"""Counters of fake guests, and the older members that read them by name."""

import time

import pytest

from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.model.states import PowerState
from tests.unit.virt.fake.conftest import Host, make_instance


def aged(host: Host) -> Instance:
    """Return an instance whose guest has run for a while."""
    instance = host.spawn(flavor={"vcpus": 2})
    host.driver.hypervisor.effect("age", instance.uuid, domain={"running_since": time.time() - 100})
    return instance


def test_diagnostics_are_told_in_both_forms(host: Host) -> None:
    instance = aged(host)
    flat = host.driver.get_diagnostics(instance)
    assert {"cpu0_time", "cpu1_time", "memory", "vda_read", "vda_write_req"} <= flat.keys()
    details = host.driver.get_instance_diagnostics(instance)
    assert (details.state, details.driver, details.num_cpus, details.num_disks, details.num_nics) == (
        "running",
        "fake",
        2,
        2,
        1,
    )
    assert details.nic_details[0].rx_octets > 0
    assert details.disk_details[0].read_bytes > 0
    assert details.memory_details.maximum == 64


def test_a_guest_that_is_off_has_no_flat_diagnostics(host: Host) -> None:
    instance = host.spawn()
    host.driver.power_off(instance)
    with pytest.raises(errors.InvalidState):
        host.driver.get_diagnostics(instance)
    assert host.driver.get_instance_diagnostics(instance).state == "shutdown"


def test_block_stats_are_five_numbers_of_one_disk(host: Host) -> None:
    instance = aged(host)
    stats = host.driver.block_stats(instance, "vda")
    assert len(stats) == 5
    assert stats[1] > 0
    with pytest.raises(errors.InvalidArguments):
        host.driver.block_stats(instance, "vdz")


def test_interface_stats_are_eight_numbers_of_one_interface(host: Host) -> None:
    instance = aged(host)
    vif = instance.network_info[0]
    stats = host.driver.interface_stats(instance.name, vif.id)
    assert len(stats) == 8
    assert len(host.driver.interface_stats(instance.name, vif.address)) == 8
    with pytest.raises(errors.InvalidArguments):
        host.driver.interface_stats(instance.name, "other")
    with pytest.raises(errors.InstanceNotFound):
        host.driver.interface_stats("nobody", vif.id)


def test_older_members_list_by_name(host: Host) -> None:
    instance = host.spawn()
    assert host.driver.list_disks(instance.name) == ["vda", "vdb"]
    assert host.driver.list_interfaces(instance.name) == [instance.network_info[0].id]
    (detail,) = host.driver.list_instances_detail()
    assert (detail.name, detail.state) == (instance.name, PowerState.RUNNING)


def test_usage_is_told_per_volume_and_per_instance(host: Host) -> None:
    instance = aged(host)
    bdms = [{"instance": instance, "instance_bdms": instance.block_device_mapping}]
    (usage,) = host.driver.get_all_volume_usage(None, bdms)
    assert usage["volume"] == instance.block_device_mapping[0].volume_id
    assert usage["rd_bytes"] > 0
    assert host.driver.get_per_instance_usage() == {instance.uuid: {"uuid": instance.uuid, "memory_mb": 64}}


def test_last_words_are_the_ends_of_the_logs(host: Host) -> None:
    instance = host.spawn()
    host.driver.outside.write_console(instance.uuid, "x" * 10_000 + "panic")
    host.driver.outside.crash(instance.uuid)
    assert host.events == ["Crashed"]
    words = host.driver.get_last_words(instance)
    assert words["console"].endswith("panic")
    assert len(words["console"]) == 4096
    assert "crashed" in words["hypervisor"]
    assert host.driver.get_last_words(make_instance()) == {}
