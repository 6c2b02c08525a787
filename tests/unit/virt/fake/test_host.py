# SPDX-License-Identifier: Apache-2.0
"""The fake host: resources, orphans, checks, power; and a hypervisor that is away."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from compute_agent import concurrency, steps
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.image import Image
from compute_agent.model.states import PowerState
from compute_agent.virt.fake.hypervisor import Size
from tests.unit.virt.fake.conftest import Host, make_instance, spawn

FOREIGN = "99999999-0000-4000-8000-000000000000"


@pytest.fixture
def _power_allowed() -> Iterator[None]:
    CONF.set_override("allow_power_actions", True, "host")
    yield
    CONF.clear_override("allow_power_actions", "host")


def test_resources_follow_the_guests(host: Host) -> None:
    host.driver.hypervisor.size = Size(vcpus=16, memory_mb=1000, local_gb=100)
    instance = host.spawn(flavor={"vcpus": 4, "memory_mb": 100, "root_gb": 10})
    found = host.driver.get_available_resource(host.name)
    assert (found["vcpus"], found["vcpus_used"], found["running_vms"]) == (16, 4, 1)
    assert (found["memory_mb_used"], found["memory_free"], found["memory_dom0"]) == (100, 900, 0)
    assert (found["local_gb_used"], found["disk_available_least"]) == (10, 90)
    host.driver.destroy(None, instance, [])
    assert host.driver.get_available_resource(host.name)["memory_free"] == 1000


def test_host_stats_are_kept_until_they_are_refreshed(host: Host) -> None:
    assert host.driver.get_host_stats()["running_vms"] == 0
    host.spawn()
    assert host.driver.get_host_stats()["running_vms"] == 0
    assert host.driver.get_host_stats(refresh=True)["running_vms"] == 1
    assert host.driver.update_host_status() == host.driver.get_host_stats()
    assert host.driver.update_available_resource(None, host.name) == host.driver.get_host_stats()


class Tree:
    """A tree of resource providers."""

    def __init__(self) -> None:
        self.inventory: dict[str, Any] = {}
        self.traits: dict[str, Any] = {}

    def update_inventory(self, name: str, inventory: Any) -> None:
        self.inventory[name] = inventory

    def update_traits(self, name: str, traits: Any) -> None:
        self.traits[name] = traits


def test_inventory_and_traits_reach_the_provider_tree(host: Host) -> None:
    tree = Tree()
    host.driver.update_provider_tree(tree, host.name)
    assert tree.inventory[host.name].keys() == {"VCPU", "MEMORY_MB", "DISK_GB"}
    assert tree.inventory[host.name]["VCPU"]["total"] == CONF.fake.vcpus
    assert "CUSTOM_FAKE" in tree.traits[host.name]


def test_guests_are_listed_in_every_form(host: Host) -> None:
    instance = host.spawn()
    assert host.driver.list_instances() == [instance.name]
    assert host.driver.list_instance_uuids() == [instance.uuid]
    assert host.driver.get_num_instances() == 1
    assert list(host.driver.get_all_info()) == [instance.uuid]


def test_the_host_is_the_one_node(host: Host) -> None:
    assert host.driver.get_available_nodes() == [host.name]
    assert host.driver.node_is_available(host.name)
    assert not host.driver.node_is_available("other")
    assert host.driver.get_host_ip_addr() == CONF.my_ip
    assert host.driver.get_host_uptime().startswith("up ")
    assert host.driver.get_host_cpu_stats().keys() == {"kernel", "idle", "user", "iowait", "frequency"}
    assert host.driver.get_ancillary_files() == ([], [])


# --- orphans ---------------------------------------------------------------------------------------


def test_what_nobody_accounts_for_is_an_orphan_until_it_is_destroyed(host: Host) -> None:
    known = host.spawn()
    left = host.spawn()
    host.driver.destroy(None, left, [], destroy_disks=False)
    host.driver.outside.define_foreign(FOREIGN, "stranger")
    loose = make_instance()
    host.driver.plug_vifs(loose, loose.network_info)
    found = {orphan.id: orphan.kind for orphan in host.driver.list_orphans([known.uuid])}
    assert found == {
        FOREIGN: "domain",
        f"directory:{left.uuid}": "directory",
        f"interface:{loose.uuid}": "interface",
    }
    assert host.driver.get_description(FOREIGN) is None
    for orphan_id in found:
        host.driver.destroy_orphan(orphan_id)
        host.driver.destroy_orphan(orphan_id)
    assert host.driver.list_orphans([known.uuid]) == []
    assert host.driver.list_instance_uuids() == [known.uuid]
    assert known.uuid in host.world.directories


# --- checks ----------------------------------------------------------------------------------------


def test_a_fit_host_has_no_problems(host: Host) -> None:
    assert host.driver.verify() is None
    assert host.driver.check_parameters(make_instance()) is None
    assert host.driver.validate_parameters(make_instance()) is None


def test_every_reason_against_an_instance_is_told(host: Host, configure: Callable[..., None]) -> None:
    configure(bridges=["other"])
    host.driver.hypervisor.size = Size(vcpus=1, memory_mb=10, local_gb=1)
    problems = host.driver.validate_parameters(make_instance(flavor={"vcpus": 2}))
    assert problems is not None
    codes = [problem.code for problem in problems]
    assert sorted(map(str, codes)) == ["InsufficientResources", "InsufficientResources", "NetworkUnavailable"]
    large = Image(url="https://images.example.org/large", min_disk_gb=9)
    assert host.driver.check_parameters(make_instance(image=large))


# --- power -----------------------------------------------------------------------------------------


def test_power_actions_are_off_unless_configured(host: Host) -> None:
    with pytest.raises(errors.PermissionDenied):
        host.driver.host_power_action("reboot")


@pytest.mark.usefixtures("_power_allowed")
def test_a_host_that_reboots_takes_its_guests_down_and_keeps_the_suspended(host: Host) -> None:
    running, suspended = host.spawn(), host.spawn()
    host.driver.suspend(None, suspended)
    assert host.events == ["Suspended"]
    assert host.driver.host_power_action("reboot") == "reboot"
    assert host.events == ["Disconnected", "Connected"]
    assert host.driver.get_info(running).state is PowerState.SHUTDOWN
    host.driver.resume_state_on_host_boot(None, suspended, [])
    host.driver.resume_state_on_host_boot(None, running, [])
    assert host.events == ["Resumed", "Started"]
    with pytest.raises(errors.InvalidArguments):
        host.driver.host_power_action("explode")


# --- a hypervisor that is away ---------------------------------------------------------------------


def test_questions_are_refused_and_verbs_wait_while_the_hypervisor_is_away(host: Host) -> None:
    instance = host.spawn()
    host.driver.hypervisor.lose("it was stopped")
    with pytest.raises(errors.HypervisorUnavailable):
        host.driver.get_all_info()
    problems = host.driver.verify()
    assert problems is not None
    assert "it was stopped" in problems[0].message
    work = steps.Work(operation_id="op-1", verb="pause")

    def pause() -> None:
        with steps.working(work):
            host.driver.pause(instance)

    task = concurrency.spawn(pause)
    concurrency.sleep(0)
    assert work.waiting_for is not None
    host.driver.hypervisor.regain()
    task.wait()
    assert host.events == ["Disconnected", "Connected", "Paused"]


def test_a_verb_waits_for_the_hypervisor_no_longer_than_it_may(host: Host) -> None:
    host.driver.hypervisor.lose()
    work = steps.Work(operation_id="op-1", verb="spawn", deadline=time.monotonic() + 0.02)
    with steps.working(work), pytest.raises(errors.Timeout):
        spawn(host.driver, make_instance())


def test_the_resources_are_json_where_the_contract_says_so(host: Host) -> None:
    assert json.loads(host.driver.get_available_resource(host.name)["cpu_info"])["arch"] == "x86_64"
