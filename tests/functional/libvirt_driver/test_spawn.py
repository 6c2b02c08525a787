# SPDX-License-Identifier: Apache-2.0
"""Spawn: a guest or nothing, whatever happens in between."""

import struct
import time
import uuid

import pytest

from compute_agent import concurrency, failpoints, steps
from compute_agent.model import errors
from compute_agent.model.block_device import BlockDevice, SourceType
from compute_agent.model.flavor import Flavor
from compute_agent.model.image import Image
from compute_agent.model.instance import Instance
from compute_agent.model.security_group import RuleProtocol, SecurityGroup, SecurityGroupRule
from compute_agent.model.states import PowerState
from compute_agent.model.vif import Vif
from compute_agent.virt.libvirt.paths import tap_name
from tests.functional.libvirt_driver.conftest import Watched
from tests.functional.serving import links
from tests.rig import domain
from tests.rig.bootsector import SHORT_LIVED

RULED = SecurityGroup(id="web", rules=[SecurityGroupRule(protocol=RuleProtocol.TCP, port_range_min=80)])
STEPS = ["check", "image", "directory", "disk", "define", "start"]


def test_a_guest_runs_and_greets(watched: Watched) -> None:
    instance = watched.instance()
    watched.spawn(instance)
    assert watched.told(instance) == ["started"]
    assert watched.state(instance) is PowerState.RUNNING
    assert watched.hypervisor.qemu_pid(instance.uuid) is not None
    watched.wait(lambda: b"Hello" in watched.driver.get_console_output(None, instance), "the greeting")


def test_a_guest_that_starts_paused_runs_no_instruction(watched: Watched) -> None:
    instance = watched.instance(start_paused=True)
    watched.spawn(instance)
    assert watched.told(instance) == ["paused"]
    assert watched.state(instance) is PowerState.PAUSED
    assert watched.driver.get_console_output(None, instance) == b""
    watched.driver.unpause(instance)
    assert watched.told(instance) == ["paused", "resumed"]
    watched.wait(lambda: b"Hello" in watched.driver.get_console_output(None, instance), "the greeting")


def test_a_guest_that_ends_at_once_was_started_all_the_same(watched: Watched) -> None:
    instance = watched.instance(SHORT_LIVED)
    watched.spawn(instance)
    watched.wait(lambda: len(watched.told(instance)) == 2, "its end")
    assert watched.told(instance) == ["started", "stopped"]
    assert watched.last(instance).origin == "guest"


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("place", ["before", "after"])
def test_a_spawn_that_fails_leaves_nothing(watched: Watched, step: str, place: str) -> None:
    instance = watched.instance()
    failpoints.arm(f"spawn.{step}.{place}=raise:HypervisorError")
    with watched.operation(), pytest.raises(errors.HypervisorError):
        watched.spawn(instance)
    assert watched.left_of(instance) == []
    assert watched.told(instance) == (["started", "stopped"] if (step, place) == ("start", "after") else [])
    failpoints.arm("")
    with watched.operation():
        watched.spawn(instance)
    assert watched.state(instance) is PowerState.RUNNING


@pytest.mark.parametrize("interrupted_after", range(len(STEPS) + 1))
def test_an_interrupted_spawn_is_finished_by_the_next_attempt(
    watched: Watched, interrupted_after: int
) -> None:
    instance = watched.instance()
    with watched.operation() as work:
        for step in watched.spawn_steps(instance)[:interrupted_after]:
            step.do()
    with watched.operation(operation_id=work.operation_id, attempts=2):
        watched.spawn(instance)
    assert watched.told(instance) == ["started"]
    assert watched.state(instance) is PowerState.RUNNING
    assert sorted(watched.left_of(instance)) == sorted(["domain", "qemu", instance.uuid])


@pytest.mark.parametrize("interrupted_after", range(len(STEPS) + 1))
def test_an_interrupted_spawn_can_be_undone_altogether(watched: Watched, interrupted_after: int) -> None:
    instance = watched.instance()
    with watched.operation() as work:
        for step in watched.spawn_steps(instance)[:interrupted_after]:
            step.do()
    again = watched.operation(operation_id=work.operation_id, attempts=2, undo_only=True)
    with again, pytest.raises(errors.Interrupted):
        watched.spawn(instance)
    assert watched.left_of(instance) == []


@pytest.mark.parametrize("interrupted_after", range(1, len(STEPS)))
def test_an_attempt_that_fails_earlier_than_the_one_before_leaves_nothing_of_either(
    watched: Watched, interrupted_after: int
) -> None:
    instance = watched.instance()
    with watched.operation() as work:
        for step in watched.spawn_steps(instance)[:interrupted_after]:
            step.do()
    failpoints.arm("spawn.check.before=raise:HypervisorError")
    again = watched.operation(operation_id=work.operation_id, attempts=2)
    with again, pytest.raises(errors.HypervisorError):
        watched.spawn(instance)
    assert watched.left_of(instance) == []


@pytest.mark.parametrize("in_operation", [True, False])
def test_an_instance_that_exists_is_not_touched(watched: Watched, in_operation: bool) -> None:
    instance = watched.spawned()
    pid = watched.hypervisor.qemu_pid(instance.uuid)
    operation = watched.operation(attempts=2) if in_operation else watched.operation(operation_id=None)
    with operation, pytest.raises(errors.InstanceExists):
        watched.spawn(instance)
    assert watched.hypervisor.qemu_pid(instance.uuid) == pid
    assert watched.told(instance) == []
    assert (watched.directory(instance) / "disk").exists()


def test_files_of_a_former_instance_are_not_taken_over(watched: Watched) -> None:
    instance = watched.spawned()
    watched.driver.destroy(None, instance, [], destroy_disks=False)
    assert watched.driver.instance_on_disk(instance)
    with pytest.raises(errors.InstanceExists):
        watched.spawn(instance)
    assert (watched.directory(instance) / "disk").exists()
    watched.driver.destroy(None, instance, [])
    assert not watched.driver.instance_on_disk(instance)


def test_a_name_that_another_domain_has_is_refused(watched: Watched) -> None:
    instance = watched.instance(name="taken")
    disk = watched.hypervisor.images.raw("foreign")
    connection = watched.hypervisor.connect()
    connection.defineXML(domain.plain_domain(disk, watched.hypervisor.scratch / "f.log", name="taken"))
    with pytest.raises(errors.InstanceExists):
        watched.spawn(instance)
    assert watched.left_of(instance) == []
    assert connection.lookupByName("taken").isPersistent()
    connection.close()


@pytest.mark.parametrize(
    "flavor",
    [
        Flavor(vcpus=4096, memory_mb=32),
        Flavor(vcpus=1, memory_mb=2**26),
        Flavor(vcpus=1, memory_mb=32, root_gb=2**20),
    ],
)
def test_a_flavor_larger_than_the_host_is_refused(watched: Watched, flavor: Flavor) -> None:
    instance = watched.instance(flavor=flavor)
    with pytest.raises(errors.InsufficientResources):
        watched.spawn(instance)
    assert watched.left_of(instance) == []


def test_disks_larger_than_the_host_are_refused(watched: Watched) -> None:
    blank = BlockDevice(source_type=SourceType.BLANK, size_gb=2**20)
    instance = watched.instance(block_device_mapping=[blank])
    with pytest.raises(errors.InsufficientResources):
        watched.spawn(instance)
    assert watched.left_of(instance) == []


def test_a_missing_image_leaves_nothing(watched: Watched) -> None:
    missing = watched.hypervisor.images_path / "missing.raw"
    instance = watched.instance(image=Image(url=missing.as_uri()))
    with pytest.raises(errors.ImageUnavailable):
        watched.spawn(instance)
    assert watched.left_of(instance) == []


@pytest.mark.usefixtures("filtered_by_others")
def test_rules_that_nobody_applies_are_refused(watched: Watched) -> None:
    instance = watched.instance(security_groups=[RULED])
    with pytest.raises(errors.UnsupportedOperation, match="rules of security groups"):
        watched.spawn(instance)
    assert watched.left_of(instance) == []


def test_a_start_that_qemu_refuses_brings_its_words_and_leaves_nothing(watched: Watched) -> None:
    """A disk that is not what its overlay says: QEMU finds that out when it starts."""
    instance = watched.instance()
    made = watched.spawn_steps(instance)
    with watched.operation() as work:
        for step in made[:5]:
            step.do()
    (watched.directory(instance) / "disk").write_bytes(b"no longer a qcow2 image")
    again = watched.operation(operation_id=work.operation_id, attempts=2)
    with again, pytest.raises(errors.HypervisorError) as caught:
        watched.spawn(instance)
    assert caught.value.step == "start"
    assert "qcow2" in (caught.value.evidence or "")
    assert watched.left_of(instance) == []
    assert watched.told(instance) == []


def test_ten_spawns_at_once(watched: Watched) -> None:
    instances = [watched.instance() for _ in range(10)]
    ended = [concurrency.spawn(watched.spawn, instance) for instance in instances]
    for task in ended:
        task.wait()
    assert [watched.told(instance) for instance in instances] == [["started"]] * 10
    assert set(watched.hypervisor.qemu_pids()) >= {instance.uuid for instance in instances}


def test_a_plan_shows_the_domain_and_changes_nothing(watched: Watched) -> None:
    instance = watched.instance()
    shown = {part["step"]: part for part in steps.plan(watched.spawn_steps(instance))}
    assert list(shown) == STEPS
    assert f"<uuid>{instance.uuid}</uuid>" in shown["define"]["domain_xml"]
    assert shown["check"]["problems"] == []
    assert not any(part["done"] for part in shown.values())
    assert watched.left_of(instance) == []


@pytest.mark.usefixtures("filtered_by_others")
def test_a_plan_tells_why_a_spawn_would_fail(watched: Watched) -> None:
    instance = watched.instance(flavor=Flavor(vcpus=1, memory_mb=2**26), security_groups=[RULED])
    shown = steps.plan(watched.spawn_steps(instance))
    assert [p.code for p in shown[0]["problems"]] == ["UnsupportedOperation", "InsufficientResources"]


def test_further_disks_of_the_flavor_are_made(watched: Watched) -> None:
    instance = watched.instance(flavor=Flavor(vcpus=1, memory_mb=32, ephemeral_gb=1, swap_mb=64))
    watched.spawn(instance)
    found = watched.driver.get_instance_diagnostics(instance)
    assert [disk.id for disk in found.disk_details] == ["vda", "vdb", "vdc"]


def test_a_cancelled_spawn_leaves_nothing(watched: Watched) -> None:
    instance = watched.instance()
    failpoints.arm("spawn.define.before=delay:0.3")
    with watched.operation() as work:
        concurrency.spawn(lambda: (concurrency.sleep(0.1), work.cancel_requested.set()))
        with pytest.raises(errors.Cancelled):
            watched.spawn(instance)
    assert watched.left_of(instance) == []


# --- direct boot ------------------------------------------------------------------------------------------


def _kernel(greeting: bytes) -> bytes:
    """A multiboot kernel of QEMU's `-kernel`: 32-bit code that writes `greeting` to the serial port."""
    load, header_size = 0x100000, 32
    code = bytes.fromhex("be00000000 ac 84c0 7407 66baf803 ee ebf4 f4 ebfd".replace(" ", ""))
    message = load + header_size + len(code)
    code = code[:1] + struct.pack("<I", message) + code[5:]
    end = message + len(greeting) + 1
    magic, flags = 0x1BADB002, 0x10000
    header = (magic, flags, -(magic + flags) & 0xFFFFFFFF, load, load, end, 0, load + header_size)
    return struct.pack("<8I", *header) + code + greeting + b"\0"


def test_a_guest_without_a_disk_boots_a_kernel_of_the_host(watched: Watched) -> None:
    kernel = watched.hypervisor.images_path / f"{uuid.uuid4()}.kernel"
    kernel.write_bytes(_kernel(b"booted directly\r\n"))
    ramdisk = watched.hypervisor.images_path / f"{uuid.uuid4()}.ramdisk"
    ramdisk.write_bytes(b"a module")
    instance = watched.instance(
        image=None, kernel=kernel.as_uri(), ramdisk=ramdisk.as_uri(), cmdline="console=ttyS0 <quiet>"
    )
    watched.spawn(instance)
    watched.wait(
        lambda: b"booted directly" in watched.driver.get_console_output(None, instance), "the kernel's words"
    )
    assert watched.told(instance) == ["started"]


def test_a_kernel_from_a_place_that_is_not_allowed_is_refused(watched: Watched) -> None:
    instance = watched.instance(image=None, kernel="file:///etc/passwd")
    with pytest.raises(errors.ImageUnavailable):
        watched.spawn(instance)
    assert watched.left_of(instance) == []


# --- networks ----------------------------------------------------------------------------------------


def _with_vif(watched: Watched, bridge: str) -> tuple[Instance, Vif]:
    vif = Vif(id=str(uuid.uuid4()), address="52:54:00:12:34:56", bridge=bridge)
    return watched.instance(network_info=[vif]), vif


def test_an_interface_is_plugged_into_its_bridge_and_goes_with_the_guest(
    watched: Watched, bridge: str
) -> None:
    instance, vif = _with_vif(watched, bridge)
    watched.spawn(instance)
    assert f"master {bridge}" in links()[tap_name(vif.id)]
    found = watched.driver.get_instance_diagnostics(instance)
    assert [(nic.id, nic.mac_address) for nic in found.nic_details] == [(vif.id, vif.address)]
    watched.driver.destroy(None, instance, instance.network_info)
    assert tap_name(vif.id) not in links()


def test_a_spawn_that_fails_leaves_no_tap(watched: Watched, bridge: str) -> None:
    instance, vif = _with_vif(watched, bridge)
    failpoints.arm("spawn.start.after=raise:Internal")
    with watched.operation(), pytest.raises(errors.Internal):
        watched.spawn(instance)
    assert watched.left_of(instance) == []
    assert tap_name(vif.id) not in links()


def test_a_missing_bridge_is_noticed_before_anything_is_made(watched: Watched) -> None:
    instance, _ = _with_vif(watched, "nosuchbridge")
    with pytest.raises(errors.NetworkUnavailable):
        watched.spawn(instance)
    assert watched.left_of(instance) == []


def test_a_guest_whose_bridge_has_gone_is_not_started(watched: Watched, bridge: str) -> None:
    instance, _ = _with_vif(watched, bridge)
    watched.spawn(instance)
    watched.driver.power_off(instance)
    gone = Vif(id="other", address="52:54:00:12:34:57", bridge="nosuchbridge")
    started = time.monotonic()
    with pytest.raises(errors.NetworkUnavailable):
        watched.driver.power_on(None, instance, [gone])
    assert time.monotonic() - started < 5
    assert watched.state(instance) is PowerState.SHUTDOWN
