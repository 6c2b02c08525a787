# SPDX-License-Identifier: Apache-2.0
"""Rebuild on real guests: another disk boots, the instance stays who it is, a failure leaves the old one."""

import os
import pathlib
from typing import Any

import msgspec
import pytest

from compute_agent import failpoints
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.flavor import Flavor
from compute_agent.model.image import Image
from compute_agent.model.instance import Instance
from compute_agent.model.states import PowerState
from compute_agent.steps import Step
from compute_agent.virt.libvirt.rebuild import Rebuild
from tests.functional.libvirt_driver.conftest import Watched
from tests.rig.bootsector import Guestware

OLD = Guestware(greeting="the old disk", honours_button=True)
NEW = Guestware(greeting="the new disk", honours_button=True)
STEPS = ["check", "image", "note", "disks", "config_drive", "stop", "switch", "define", "start", "old"]
SAMPLE = ("switch", "start")
"""After these a step is tried in every test run; after the others, in the long ones."""
EACH = [
    pytest.param(count, marks=[] if STEPS[count - 1] in SAMPLE else pytest.mark.long)
    for count in range(len(STEPS) + 1)
]
FLAVOR = Flavor(vcpus=1, memory_mb=32, ephemeral_gb=1)


def new_image(watched: Watched) -> Image:
    return Image(url=watched.hypervisor.images.raw("new", NEW).as_uri())


def rebuild(watched: Watched, instance: Instance, image: Image | None = None, **options: Any) -> Instance:
    image = image or new_image(watched)
    made = msgspec.structs.replace(instance, image=image)
    watched.driver.rebuild(None, made, image, [], None, None, [], None, None, network_info=[], **options)
    return made


def rebuild_steps(watched: Watched, instance: Instance) -> list[Step]:
    image = new_image(watched)
    return Rebuild(watched.driver, msgspec.structs.replace(instance, image=image), []).steps()


def files(watched: Watched, instance: Instance) -> set[str]:
    return watched.files(instance) - {"rebuild"}


def mark(watched: Watched, instance: Instance, name: str) -> int:
    """Tell one file from another of the same name."""
    return os.stat(watched.directory(instance) / name).st_ino


def described(watched: Watched, instance: Instance) -> Instance:
    found = watched.driver.get_description(instance.uuid)
    assert found is not None and found.instance is not None
    return found.instance


def test_a_rebuilt_guest_boots_the_new_image_and_stays_who_it_is(watched: Watched) -> None:
    instance = watched.spawned(OLD, flavor=FLAVOR)
    name, before = watched.guest(instance).xml().findtext("name"), files(watched, instance)
    ephemeral = mark(watched, instance, "disk.eph0")
    made = rebuild(watched, instance)
    assert watched.told(instance) == ["stopped", "started"]
    watched.greets(instance, NEW)
    assert watched.guest(instance).xml().findtext("name") == name
    assert described(watched, instance).image == made.image
    assert files(watched, instance) == before
    assert mark(watched, instance, "disk.eph0") != ephemeral


def test_ephemeral_disks_are_kept_when_they_are_to_be_preserved(watched: Watched) -> None:
    instance = watched.spawned(OLD, flavor=FLAVOR)
    ephemeral, root = mark(watched, instance, "disk.eph0"), mark(watched, instance, "disk")
    rebuild(watched, instance, preserve_ephemeral=True)
    assert mark(watched, instance, "disk.eph0") == ephemeral
    assert mark(watched, instance, "disk") != root
    watched.greets(instance, NEW)


def test_a_guest_that_is_off_is_rebuilt_and_started(watched: Watched) -> None:
    instance = watched.spawned(OLD)
    watched.driver.power_off(instance)
    watched.heard.clear()
    rebuild(watched, instance)
    assert watched.told(instance) == ["started"]
    watched.greets(instance, NEW)


def test_a_guest_whose_domain_somebody_removed_is_made_anew(watched: Watched) -> None:
    instance = watched.spawned(OLD)
    with watched.guest(instance).domain() as domain:
        domain.destroy()
        domain.undefine()
    rebuild(watched, instance)
    assert watched.state(instance) is PowerState.RUNNING
    watched.greets(instance, NEW)


@pytest.mark.parametrize(
    ("name", "contents", "fields", "error"),
    [
        ("absent", None, {}, errors.ImageUnavailable),
        ("lying", b"QFI\xfb" + bytes(2000), {"disk_format": "qcow2"}, errors.ImageUnsafe),
        ("other", b"x" * 2048, {"checksum": f"sha256:{'0' * 64}"}, errors.ImageChecksumMismatch),
    ],
)
def test_a_bad_image_is_found_before_anything_is_touched(
    watched: Watched, name: str, contents: bytes | None, fields: dict[str, Any], error: type[Exception]
) -> None:
    instance = watched.spawned(OLD)
    before, pid = files(watched, instance), watched.hypervisor.qemu_pid(instance.uuid)
    path = pathlib.Path(watched.hypervisor.images_path) / f"{name}.img"
    if contents is not None:
        path.write_bytes(contents)
    bad = msgspec.convert({"url": path.as_uri(), **fields}, Image)
    with watched.operation("rebuild"), pytest.raises(error):
        rebuild(watched, instance, bad)
    assert (files(watched, instance), watched.hypervisor.qemu_pid(instance.uuid)) == (before, pid)
    assert watched.told(instance) == []


def test_an_image_that_is_too_large_for_the_flavor_touches_nothing(watched: Watched) -> None:
    instance = watched.spawned(OLD, flavor=Flavor(vcpus=1, memory_mb=32, root_gb=1))
    pid = watched.hypervisor.qemu_pid(instance.uuid)
    large = watched.hypervisor.images.raw("large", NEW)
    os.truncate(large, 2 * 2**30)
    with watched.operation("rebuild"), pytest.raises(errors.ImageTooLarge):
        rebuild(watched, instance, Image(url=large.as_uri()))
    assert watched.hypervisor.qemu_pid(instance.uuid) == pid


@pytest.mark.parametrize(
    ("step", "running"),
    [
        *(pytest.param(step, True, marks=[] if step in SAMPLE else pytest.mark.long) for step in STEPS[:-1]),
        *(pytest.param(step, False, marks=pytest.mark.long) for step in ("stop", "switch")),
        ("start", False),
    ],
)
def test_a_rebuild_that_fails_leaves_the_old_guest(watched: Watched, step: str, running: bool) -> None:
    instance = watched.spawned(OLD, flavor=FLAVOR)
    if not running:
        watched.driver.power_off(instance)
    before = files(watched, instance)
    marks = {name: mark(watched, instance, name) for name in ("disk", "disk.eph0")}
    failpoints.arm(f"rebuild.{step}.after=raise:HypervisorError")
    with watched.operation("rebuild") as work, pytest.raises(errors.HypervisorError):
        rebuild(watched, instance)
    assert work.left_behind == []
    assert files(watched, instance) == before
    assert {name: mark(watched, instance, name) for name in marks} == marks
    assert watched.state(instance) is (PowerState.RUNNING if running else PowerState.SHUTDOWN)
    assert described(watched, instance).image == instance.image
    if running:
        watched.greets(instance, OLD)


@pytest.mark.parametrize("count", EACH)
def test_an_interrupted_rebuild_is_finished_by_the_next_attempt(watched: Watched, count: int) -> None:
    instance = watched.spawned(OLD)
    before = files(watched, instance)
    with watched.operation("rebuild") as work:
        for step in rebuild_steps(watched, instance)[:count]:
            step.do()
    with watched.operation("rebuild", operation_id=work.operation_id, attempts=2):
        rebuild(watched, instance)
    assert watched.told(instance) == ["stopped", "started"]
    assert files(watched, instance) == before
    watched.greets(instance, NEW)


@pytest.mark.parametrize("count", EACH[:-1])
def test_an_interrupted_rebuild_can_be_undone_altogether(watched: Watched, count: int) -> None:
    instance = watched.spawned(OLD)
    before = files(watched, instance)
    with watched.operation("rebuild") as work:
        for step in rebuild_steps(watched, instance)[:count]:
            step.do()
    again = watched.operation("rebuild", operation_id=work.operation_id, attempts=2, undo_only=True)
    with again as undone, pytest.raises(errors.Interrupted):
        rebuild(watched, instance)
    assert undone.left_behind == []
    assert files(watched, instance) == before
    watched.greets(instance, OLD)


def test_what_a_rebuild_could_not_undo_is_undone_by_the_next(watched: Watched) -> None:
    instance = watched.spawned(OLD)
    failpoints.arm("rebuild.start.after=raise:HypervisorError;rebuild.switch.undo=raise:HypervisorError")
    with watched.operation("rebuild") as work, pytest.raises(errors.HypervisorError):
        rebuild(watched, instance)
    assert "switch" in work.left_behind
    failpoints.arm("rebuild.disks.after=raise:HypervisorError")
    with watched.operation("rebuild"), pytest.raises(errors.HypervisorError):
        rebuild(watched, instance)
    assert not [name for name in files(watched, instance) if name.endswith((".before", ".rebuild"))]
    watched.driver.reboot(None, instance, [], "HARD")
    watched.greets(instance, OLD)


@pytest.mark.long
def test_an_encrypted_root_disk_is_rebuilt_encrypted_and_can_be_rescued(
    watched: Watched, tmp_path: pathlib.Path
) -> None:
    CONF.set_override("key_directory", str(tmp_path / "keys"), "ephemeral_storage_encryption")
    try:
        specs = {"hw:ephemeral_encryption": "true"}
        instance = watched.spawned(OLD, flavor=Flavor(vcpus=1, memory_mb=32, extra_specs=specs))
        made = rebuild(watched, instance)
        watched.greets(made, NEW)
        (disk,) = watched.guest(made).disks
        told = watched.guest(made).disk_chain(disk)[0]
        assert told["format-specific"]["data"]["encrypt"]["format"] == "luks"
        watched.driver.rescue(None, made, [], new_image(watched), None)
        assert [path.name for path in watched.guest(made).disks] == ["disk.rescue", "disk"]
        watched.driver.unrescue(made, [])
        watched.driver.destroy(None, made, [])
        assert watched.left_of(made) == []
    finally:
        CONF.clear_override("key_directory", "ephemeral_storage_encryption")
