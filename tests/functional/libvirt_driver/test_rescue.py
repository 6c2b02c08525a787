# SPDX-License-Identifier: Apache-2.0
"""Rescue and unrescue on real guests: which disk boots shows on the console."""

import json
import pathlib
from typing import Any

import pytest

from compute_agent import failpoints
from compute_agent.model import errors
from compute_agent.model.flavor import Flavor
from compute_agent.model.image import Image
from compute_agent.model.instance import Instance
from compute_agent.model.states import PowerState
from compute_agent.steps import Step
from compute_agent.virt.configdrive import drive
from compute_agent.virt.libvirt.rescue import Rescue, Unrescue
from tests.functional.libvirt_driver.conftest import Watched
from tests.functional.libvirt_driver.test_spawn import _kernel as multiboot_kernel
from tests.rig.bootsector import Guestware

OWN = Guestware(greeting="the instance's own disk", honours_button=True)
RESCUER = Guestware(greeting="the rescue disk")
STEPS = ["check", "image", "note", "disk", "config_drive", "stop", "define", "start"]
BACK = ["check", "note", "stop", "define", "start"]


def _sampled(step: str, *values: Any) -> Any:
    """A case of every test run if it is about one of the steps, else of the long ones."""
    return pytest.param(*values, marks=[] if step == "define" else pytest.mark.long)


def rescue_image(watched: Watched) -> Image:
    return Image(url=watched.hypervisor.images.raw("rescuer", RESCUER).as_uri())


def rescue(watched: Watched, instance: Instance, image: Image | None = None) -> None:
    watched.driver.rescue(None, instance, [], image or rescue_image(watched), None)


def sources(watched: Watched, instance: Instance) -> list[str]:
    return [disk.name for disk in watched.guest(instance).disks]


def test_a_rescued_guest_boots_from_the_rescue_disk_its_own_second(watched: Watched) -> None:
    instance = watched.spawned(OWN, flavor=Flavor(vcpus=1, memory_mb=32, swap_mb=1))
    before = watched.files(instance)
    rescue(watched, instance)
    assert watched.told(instance) == ["stopped", "started"]
    assert sources(watched, instance) == ["disk.rescue", "disk", "disk.swap"]
    watched.greets(instance, RESCUER)
    watched.driver.unrescue(instance, [])
    assert watched.told(instance) == ["stopped", "started"] * 2
    assert sources(watched, instance) == ["disk", "disk.swap"]
    watched.greets(instance, OWN)
    assert watched.files(instance) == before


def test_what_a_rescue_writes_to_the_own_disk_is_there_afterwards_and_its_own_is_not(
    watched: Watched,
) -> None:
    instance = watched.spawned(OWN)
    rescue(watched, instance)
    watched.driver.power_off(instance)
    chain = watched.guest(instance).disk_chain(watched.directory(instance) / "disk.rescue")
    assert [pathlib.Path(part["filename"]).parent.name for part in chain] == [instance.uuid, "_base"]
    watched.driver.unrescue(instance, [])
    watched.greets(instance, OWN)


def test_it_is_rescued_from_its_own_image_where_no_other_is_named(watched: Watched) -> None:
    instance = watched.spawned(OWN)
    watched.driver.rescue(None, instance, [], instance.image, None)
    assert sources(watched, instance) == ["disk.rescue", "disk"]
    watched.greets(instance, OWN)


def test_an_instance_without_an_image_needs_a_rescue_image(watched: Watched) -> None:
    instance = watched.spawned(OWN)
    with pytest.raises(errors.InvalidArguments):
        watched.driver.rescue(None, instance, [], None, None)
    assert watched.told(instance) == []
    assert watched.state(instance) is PowerState.RUNNING


def test_a_guest_of_a_kernel_is_rescued_from_an_image_that_boots_by_itself(watched: Watched) -> None:
    kernel = watched.hypervisor.images_path / "rescued.kernel"
    kernel.write_bytes(multiboot_kernel(b"booted from the kernel, no disk\r\n"))
    instance = watched.spawned(image=None, kernel=kernel.as_uri())
    with pytest.raises(errors.InvalidArguments):
        watched.driver.rescue(None, instance, [], instance.image, None)
    rescue(watched, instance)
    watched.greets(instance, RESCUER)
    watched.driver.unrescue(instance, [])
    watched.greets(instance, Guestware(greeting="booted from the kernel, no disk"))


def test_a_guest_of_kernel_and_image_is_rescued_from_a_fresh_copy_of_both(watched: Watched) -> None:
    kernel = watched.hypervisor.images_path / "rescued-too.kernel"
    kernel.write_bytes(multiboot_kernel(b"booted from the kernel and a disk\r\n"))
    instance = watched.spawned(OWN, kernel=kernel.as_uri())
    watched.driver.rescue(None, instance, [], instance.image, None)
    assert sources(watched, instance) == ["disk.rescue", "disk"]
    assert watched.guest(instance).xml().findtext("os/kernel") is not None


def test_the_password_is_on_the_drive_of_the_rescue_system_alone(watched: Watched) -> None:
    instance = watched.spawned(OWN)
    image = rescue_image(watched)
    watched.driver.rescue(None, instance, [], image, "a pass word")
    assert sources(watched, instance) == ["disk.rescue", "disk", "disk.config.rescue"]
    path = watched.directory(instance) / "disk.config.rescue"
    contents = drive.read(path.read_bytes())
    assert json.loads(contents["openstack/latest/meta_data.json"])["admin_pass"] == "a pass word"
    watched.driver.unrescue(instance, [])
    assert not path.exists()
    assert sources(watched, instance) == ["disk"]


def test_a_guest_that_the_agent_did_not_make_is_refused(watched: Watched) -> None:
    instance = watched.spawned(OWN)
    (watched.directory(instance) / "owner").unlink()
    with pytest.raises(errors.UnsupportedOperation):
        rescue(watched, instance)
    assert watched.told(instance) == []


@pytest.mark.parametrize("reboot_type", ["SOFT", "HARD"])
def test_a_reboot_keeps_it_rescued(watched: Watched, reboot_type: str) -> None:
    instance = watched.spawned(OWN)
    rescue(watched, instance, Image(url=watched.hypervisor.images.raw("polite", OWN).as_uri()))
    watched.driver.reboot(None, instance, [], reboot_type)
    assert sources(watched, instance) == ["disk.rescue", "disk"]
    watched.driver.power_off(instance)
    watched.driver.power_on(None, instance, [])
    assert sources(watched, instance) == ["disk.rescue", "disk"]


def test_destroying_a_rescued_instance_leaves_nothing(watched: Watched) -> None:
    instance = watched.spawned(OWN)
    rescue(watched, instance)
    watched.driver.destroy(None, instance, [])
    assert watched.left_of(instance) == []


def test_a_stopped_guest_is_rescued_and_comes_back(watched: Watched) -> None:
    instance = watched.spawned(OWN)
    watched.driver.power_off(instance)
    watched.heard.clear()
    rescue(watched, instance)
    assert watched.told(instance) == ["started"]
    watched.driver.unrescue(instance, [])
    assert watched.told(instance) == ["started", "stopped", "started"]
    watched.greets(instance, OWN)


def test_an_image_that_cannot_be_had_touches_nothing(watched: Watched) -> None:
    instance = watched.spawned(OWN)
    before, pid = watched.files(instance), watched.hypervisor.qemu_pid(instance.uuid)
    gone = Image(url=(watched.hypervisor.images_path / "no-such.raw").as_uri())
    with pytest.raises(errors.ImageUnavailable):
        rescue(watched, instance, gone)
    assert (watched.files(instance), watched.hypervisor.qemu_pid(instance.uuid)) == (before, pid)
    assert watched.told(instance) == []


@pytest.mark.parametrize("step", [_sampled(step, step) for step in STEPS])
def test_a_rescue_that_fails_leaves_the_guest_as_it_was(watched: Watched, step: str) -> None:
    instance = watched.spawned(OWN)
    before = watched.files(instance)
    failpoints.arm(f"rescue.{step}.after=raise:HypervisorError")
    with watched.operation("rescue"), pytest.raises(errors.HypervisorError):
        rescue(watched, instance)
    assert sources(watched, instance) == ["disk"]
    assert watched.state(instance) is PowerState.RUNNING
    assert watched.files(instance) == before
    assert watched.told(instance).count("stopped") == watched.told(instance).count("started")


@pytest.mark.parametrize("step", [_sampled(step, step) for step in BACK])
def test_an_unrescue_that_fails_leaves_the_guest_rescued(watched: Watched, step: str) -> None:
    instance = watched.spawned(OWN)
    rescue(watched, instance)
    before = watched.files(instance)
    failpoints.arm(f"unrescue.{step}.after=raise:HypervisorError")
    with watched.operation("unrescue"), pytest.raises(errors.HypervisorError):
        watched.driver.unrescue(instance, [])
    assert sources(watched, instance) == ["disk.rescue", "disk"]
    assert watched.state(instance) is PowerState.RUNNING
    assert watched.files(instance) == before
    failpoints.arm("")
    watched.driver.unrescue(instance, [])
    watched.greets(instance, OWN)


def attempt(watched: Watched, instance: Instance, verb: str) -> list[Step]:
    if verb == "unrescue":
        return Unrescue(watched.driver, instance, []).steps()
    return Rescue(watched.driver, instance, [], rescue_image(watched), None).steps()


@pytest.mark.parametrize(
    ("verb", "count"),
    [
        *(_sampled(["", *STEPS][n], "rescue", n) for n in range(len(STEPS) + 1)),
        *(_sampled(["", *BACK, ""][n], "unrescue", n) for n in range(len(BACK) + 2)),
    ],
)
def test_an_interrupted_one_is_finished_by_the_next_attempt(watched: Watched, verb: str, count: int) -> None:
    instance = watched.spawned(OWN)
    if verb == "unrescue":
        rescue(watched, instance)
        watched.heard.clear()
    with watched.operation(verb) as work:
        for step in attempt(watched, instance, verb)[:count]:
            step.do()
    with watched.operation(verb, operation_id=work.operation_id, attempts=2):
        again: Any = {
            "rescue": lambda: rescue(watched, instance),
            "unrescue": lambda: watched.driver.unrescue(instance, []),
        }
        again[verb]()
    assert watched.told(instance) == ["stopped", "started"]
    assert ("disk.rescue" in sources(watched, instance)) == (verb == "rescue")


@pytest.mark.parametrize("count", [_sampled(["", *STEPS][n], n) for n in range(len(STEPS) + 1)])
def test_an_interrupted_rescue_can_be_undone_altogether(watched: Watched, count: int) -> None:
    instance = watched.spawned(OWN)
    before = watched.files(instance)
    with watched.operation("rescue") as work:
        for step in attempt(watched, instance, "rescue")[:count]:
            step.do()
    again = watched.operation("rescue", operation_id=work.operation_id, attempts=2, undo_only=True)
    with again as undone, pytest.raises(errors.Interrupted):
        rescue(watched, instance)
    assert undone.left_behind == []
    assert sources(watched, instance) == ["disk"]
    assert watched.state(instance) is PowerState.RUNNING
    assert watched.files(instance) == before
