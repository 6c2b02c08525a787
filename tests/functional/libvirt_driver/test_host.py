# SPDX-License-Identifier: Apache-2.0
"""What the driver tells about the host and its guests, held against the private libvirtd."""

import os
import pathlib
import uuid

import msgspec
import pytest

from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.flavor import Flavor
from compute_agent.model.image import Image
from compute_agent.model.security_group import RuleProtocol, SecurityGroup, SecurityGroupRule
from compute_agent.model.states import PowerState
from compute_agent.model.vif import Vif
from tests.functional.libvirt_driver.conftest import Watched
from tests.rig import domain


def _foreign(watched: Watched) -> str:
    """Define a domain that is not ours; its uuid."""
    found = str(uuid.uuid4())
    disk = watched.hypervisor.images.raw(f"foreign-{found[:8]}")
    connection = watched.hypervisor.connect()
    connection.defineXML(domain.plain_domain(disk, watched.hypervisor.scratch / "foreign.log", uuid=found))
    connection.close()
    return found


def test_info_tells_size_and_state(watched: Watched) -> None:
    instance = watched.spawned(flavor=Flavor(vcpus=2, memory_mb=48))
    info = watched.driver.get_info(instance)
    assert (info.uuid, info.name, info.state) == (instance.uuid, instance.name, PowerState.RUNNING)
    assert (info.max_mem_kb, info.mem_kb, info.num_cpu) == (48 * 1024, 48 * 1024, 2)
    assert info.cpu_time_ns > 0
    assert info.internal_id is not None
    assert watched.driver.get_all_info()[instance.uuid].num_cpu == 2
    watched.driver.power_off(instance)
    assert watched.driver.get_info(instance).internal_id is None


def test_all_domains_are_listed_ours_or_not(watched: Watched) -> None:
    instance, foreign = watched.spawned(), _foreign(watched)
    assert {instance.uuid, foreign} <= set(watched.driver.list_instance_uuids())
    assert instance.name in watched.driver.list_instances()
    assert watched.driver.get_num_instances() == len(watched.hypervisor.domains())
    assert set(watched.driver.get_all_info()) == set(watched.hypervisor.domains())


def test_a_suspended_guest_shows_as_such_in_bulk_too(watched: Watched) -> None:
    instance = watched.spawned()
    watched.driver.suspend(None, instance)
    assert watched.driver.get_all_info()[instance.uuid].state is PowerState.SUSPENDED


def test_existence_on_the_hypervisor_and_on_disk(watched: Watched) -> None:
    instance = watched.instance()
    assert not watched.driver.instance_exists(instance)
    assert not watched.driver.instance_on_disk(instance)
    watched.spawn(instance)
    assert watched.driver.instance_exists(instance)
    assert watched.driver.instance_on_disk(instance)


def test_cleanup_does_not_end_a_guest(watched: Watched) -> None:
    instance = watched.spawned()
    with pytest.raises(errors.InvalidState):
        watched.driver.cleanup(None, instance, [])
    watched.driver.power_off(instance)
    watched.driver.cleanup(None, instance, [])
    watched.driver.cleanup(None, instance, [])
    assert watched.left_of(instance) == []


# --- the description -----------------------------------------------------------------------------------


def test_the_description_brings_the_instance_back(watched: Watched) -> None:
    instance = watched.instance(generation=7, display_name="web <1>", metadata={"role": "a & b"})
    with watched.operation() as work:
        watched.spawn(instance)
    found = watched.driver.get_description(instance.uuid)
    assert found is not None
    assert found.instance == instance
    assert (found.generation, found.operation_id) == (7, work.operation_id)
    assert found.power_state is PowerState.RUNNING


def test_a_foreign_domain_has_no_description(watched: Watched) -> None:
    assert watched.driver.get_description(_foreign(watched)) is None


@pytest.mark.parametrize("runs", [True, False])
def test_a_changed_description_is_kept_over_a_restart(watched: Watched, runs: bool) -> None:
    with watched.operation() as work:
        instance = watched.spawned()
    if not runs:
        watched.driver.power_off(instance)
    changed = type(instance)(uuid=instance.uuid, flavor=instance.flavor, image=instance.image, generation=9)
    watched.driver.set_description(changed.named())
    watched.driver.reboot(None, changed.named(), [], "HARD")
    found = watched.driver.get_description(instance.uuid)
    assert found is not None
    assert (found.generation, found.operation_id) == (9, work.operation_id)


# --- orphans -------------------------------------------------------------------------------------------


def test_what_no_record_accounts_for_is_listed(watched: Watched) -> None:
    known, unknown, foreign = watched.spawned(), watched.spawned(), _foreign(watched)
    stray = str(uuid.uuid4())
    (watched.hypervisor.instances_path / f"{stray}_del").mkdir()
    found = {orphan.id for orphan in watched.driver.list_orphans({known.uuid})}
    assert {f"domain:{unknown.uuid}", f"directory:{unknown.uuid}", f"domain:{foreign}"} <= found
    assert f"directory:{stray}" in found
    assert not any(known.uuid in orphan for orphan in found)
    watched.driver.destroy_orphan(f"directory:{stray}")


def test_what_a_cold_migration_set_aside_and_nobody_knows_of_goes_when_named(watched: Watched) -> None:
    known, unknown = str(uuid.uuid4()), str(uuid.uuid4())
    ours, anothers = f"{unknown}_resize.{CONF.host_name}", f"{unknown}_resize.another"
    for name in (ours, anothers, f"{known}_resize.{CONF.host_name}", f"..{ours}"):
        (watched.hypervisor.instances_path / name / "files").mkdir(parents=True)
    found = [orphan for orphan in watched.driver.list_orphans({known}) if orphan.kind == "aside"]
    assert [orphan.id for orphan in found] == [f"aside:{unknown}"]
    for _ in range(2):
        watched.driver.destroy_orphan(f"aside:{unknown}")
    left = {path.name for path in watched.hypervisor.instances_path.iterdir()}
    assert ours not in left and anothers in left


def test_filters_that_nobody_knows_of_go_when_named(watched: Watched) -> None:
    vif = Vif(id=str(uuid.uuid4()), address="52:54:00:00:00:01", bridge="br0")
    known, unknown, running = (watched.instance(network_info=[vif]) for _ in range(3))
    watched.spawn(msgspec.structs.replace(running, network_info=[]))
    for one in (known, unknown, running):
        watched.driver.ensure_filtering_rules_for_instance(one, one.network_info)
    found = [orphan.id for orphan in watched.driver.list_orphans({known.uuid}) if orphan.kind == "filter"]
    assert found == [f"filter:{unknown.uuid}"]
    for _ in range(2):
        watched.driver.destroy_orphan(f"filter:{unknown.uuid}")
    left = [orphan.id for orphan in watched.driver.list_orphans() if orphan.kind == "filter"]
    assert left == [f"filter:{known.uuid}"]
    watched.driver.unfilter_instance(known, known.network_info)


def test_an_orphan_goes_when_it_is_named(watched: Watched) -> None:
    instance = watched.spawned()
    with pytest.raises(errors.InvalidState):
        watched.driver.destroy_orphan(f"directory:{instance.uuid}")
    for orphan in (f"domain:{instance.uuid}", f"directory:{instance.uuid}"):
        watched.driver.destroy_orphan(orphan)
        watched.driver.destroy_orphan(orphan)
    assert watched.left_of(instance) == []


@pytest.mark.usefixtures("filtered_by_others")
def test_a_description_with_what_is_not_offered_is_refused(watched: Watched) -> None:
    instance = watched.spawned()
    group = SecurityGroup(id="web", rules=[SecurityGroupRule(protocol=RuleProtocol.TCP, port_range_min=80)])
    ruled = msgspec.structs.replace(instance, security_groups=[group])
    with pytest.raises(errors.UnsupportedOperation, match="rules of security groups"):
        watched.driver.set_description(ruled)
    found = watched.driver.get_description(instance.uuid)
    assert found is not None and found.instance is not None and found.instance.security_groups == []


@pytest.mark.parametrize(
    "orphan", ["", "domain:", "directory:..", "directory:_base", "aside:../../etc", "file:/etc/passwd"]
)
def test_what_is_no_orphans_id_is_refused(watched: Watched, orphan: str) -> None:
    with pytest.raises(errors.InvalidArguments):
        watched.driver.destroy_orphan(orphan)


# --- resources and fitness -----------------------------------------------------------------------------


def test_resources_are_the_hosts(watched: Watched) -> None:
    before = watched.driver.get_available_resource("")
    watched.spawned(flavor=Flavor(vcpus=2, memory_mb=32))
    after = watched.driver.get_available_resource("")
    assert after["vcpus"] == os.cpu_count()
    assert after["vcpus_used"] - before["vcpus_used"] == 2
    assert after["running_vms"] - before["running_vms"] == 1
    total_kb = int(pathlib.Path("/proc/meminfo").read_text().split()[1])
    assert after["memory_total"] == after["memory_mb"] == total_kb // 1024
    assert 0 < after["memory_free"] <= after["memory_total"]
    assert 0 <= after["memory_dom0"] < after["memory_total"]
    assert after["cpu_info"]["arch"] == os.uname().machine
    assert [os.uname().machine, "qemu", "hvm"] in after["supported_instances"]


def test_the_node_is_libvirts_name_of_the_host(watched: Watched) -> None:
    (node,) = watched.driver.get_available_nodes()
    assert watched.driver.get_available_resource(node)["hypervisor_hostname"] == node
    assert watched.driver.node_is_available(node)
    assert not watched.driver.node_is_available("elsewhere")


def test_small_questions_about_the_host(watched: Watched) -> None:
    assert watched.driver.get_host_uptime().startswith("up ")
    assert watched.driver.get_host_ip_addr() == CONF.my_ip
    stats = watched.driver.get_host_cpu_stats()
    assert set(stats) == {"kernel", "idle", "user", "iowait", "frequency"}
    assert stats["idle"] > 0
    assert watched.driver.get_inventory("")["VCPU"]["total"] == os.cpu_count()


def test_this_host_is_fit(watched: Watched) -> None:
    assert watched.driver.verify() is None


def test_a_directory_that_is_not_there_makes_a_host_unfit(watched: Watched, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "file"
    file.touch()
    watched.driver._instances_path = str(file / "instances")
    problems = watched.driver.verify()
    assert problems is not None
    assert any("instances_path" in problem.message and problem.remedy for problem in problems)


def test_parameters_are_held_against_the_host(watched: Watched) -> None:
    assert watched.driver.check_parameters(watched.instance()) is None
    assert watched.driver.validate_parameters(watched.instance()) is None
    vif = Vif(id="a", address="52:54:00:00:00:01", bridge="nosuchbridge")
    image = Image(url="file:///nowhere", properties={"hw_machine_type": "abacus"})
    wrong = watched.instance(flavor=Flavor(vcpus=1, memory_mb=2**26), image=image, network_info=[vif])
    found = watched.driver.validate_parameters(wrong)
    assert found is not None
    assert len(found) == 4
    assert watched.driver.check_parameters(watched.instance(user_data="?")) is not None


def test_verbs_that_are_not_offered_are_not_announced(watched: Watched) -> None:
    verbs = watched.driver.supported_verbs()
    assert {"spawn", "destroy", "reboot", "power_on", "power_off", "pause", "unpause", "suspend"} <= verbs
    assert not verbs & {"set_admin_password", "trigger_crash_dump"}
    with pytest.raises(errors.UnsupportedOperation):
        watched.driver.trigger_crash_dump(watched.instance())


# --- logs and counters ---------------------------------------------------------------------------------


def test_last_words_come_from_qemu_and_from_the_console(watched: Watched) -> None:
    instance = watched.spawned()
    watched.wait(lambda: watched.driver.get_console_output(None, instance), "the greeting")
    words = watched.driver.get_last_words(instance)
    assert "Hello" in words["console"]
    assert instance.uuid in words["hypervisor"] or "char device" in words["hypervisor"]
    assert all(len(text) <= 4096 for text in words.values())


def test_the_console_is_not_read_through_a_link(watched: Watched) -> None:
    instance = watched.spawned()
    log = watched.directory(instance) / "console.log"
    log.unlink()
    log.symlink_to("/etc/passwd")
    assert watched.driver.get_console_output(None, instance) == b""


def test_console_output_of_an_unknown_instance(watched: Watched) -> None:
    with pytest.raises(errors.InstanceNotFound):
        watched.driver.get_console_output(None, watched.instance())


def test_console_output_is_bounded(watched: Watched) -> None:
    instance = watched.spawned()
    log = watched.directory(instance) / "console.log"
    log.write_bytes(b"x" * 300_000 + b"the end")
    output = watched.driver.get_console_output(None, instance)
    assert len(output) == 100 * 1024
    assert output.endswith(b"the end")


def test_counters(watched: Watched) -> None:
    instance = watched.spawned()
    watched.wait(lambda: watched.driver.get_console_output(None, instance), "the greeting")
    flat = watched.driver.get_diagnostics(instance)
    assert flat["memory"] == 32 * 1024
    assert flat["cpu0_time"] > 0
    assert flat["vda_read"] >= 512
    found = watched.driver.get_instance_diagnostics(instance)
    assert (found.state, found.num_cpus, found.num_disks, found.num_nics) == ("running", 1, 1, 0)
    assert watched.driver.block_stats(instance, "vda")[1] == found.disk_details[0].read_bytes
    with pytest.raises(errors.InvalidArguments):
        watched.driver.block_stats(instance, "vdz")
    watched.driver.power_off(instance)
    with pytest.raises(errors.InvalidState):
        watched.driver.get_diagnostics(instance)
    assert watched.driver.get_instance_diagnostics(instance).state == "shutdown"
