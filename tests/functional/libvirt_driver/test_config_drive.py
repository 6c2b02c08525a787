# SPDX-License-Identifier: Apache-2.0
"""The config drive's step: whole or not there, whatever happens in between."""

import json
import pathlib
import subprocess
from typing import Any

import pytest

from compute_agent import failpoints, steps
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.model.states import PowerState
from compute_agent.virt.configdrive import drive
from tests.functional.libvirt_driver.conftest import Watched
from tests.rig.process import tool

FILES = [("/etc/motd", "aGVsbG8K")]


def spawn(watched: Watched, instance: Instance) -> None:
    watched.driver.spawn(None, instance, instance.image, FILES, "s3cret", None, [])


def steps_of(watched: Watched, instance: Instance) -> list[steps.Step]:
    return watched.driver.spawn_steps(None, instance, instance.image, FILES, "s3cret", None, [])


def path_of(watched: Watched, instance: Instance) -> pathlib.Path:
    return watched.directory(instance) / "disk.config"


def meta_data(watched: Watched, instance: Instance) -> Any:
    files = drive.read(path_of(watched, instance).read_bytes())
    return json.loads(files["openstack/latest/meta_data.json"])


def parts(watched: Watched, instance: Instance) -> list[str]:
    return [path.name for path in watched.directory(instance).glob("*.part")]


def test_a_spawn_that_is_interrupted_at_any_step_ends_with_a_whole_drive(watched: Watched) -> None:
    instance = watched.instance(config_drive=True)
    names = [step.name for step in steps_of(watched, instance)]
    for interrupted_after in (names.index("config_drive"), names.index("config_drive") + 1):
        instance = watched.instance(config_drive=True)
        with watched.operation() as work:
            for step in steps_of(watched, instance)[:interrupted_after]:
                step.do()
        (watched.directory(instance) / "disk.config.0123456789ab.part").write_bytes(b"half of a")
        with watched.operation(operation_id=work.operation_id, attempts=2):
            spawn(watched, instance)
        assert watched.state(instance) is PowerState.RUNNING
        assert meta_data(watched, instance)["admin_pass"] == "s3cret"
        watched.driver.destroy(None, instance, [])
        assert watched.left_of(instance) == []


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_spawn_that_fails_at_the_drive_leaves_nothing(watched: Watched, place: str) -> None:
    instance = watched.instance(config_drive=True)
    failpoints.arm(f"spawn.config_drive.{place}=raise:DiskFull")
    with watched.operation(), pytest.raises(errors.DiskFull):
        spawn(watched, instance)
    assert watched.left_of(instance) == []


def test_a_disk_that_is_full_is_told_and_leaves_nothing(
    watched: Watched, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system so small that the drive is the first thing that it has no room for."""
    instance = watched.instance(config_drive=True, vendor_data={"cloud-init": "x" * 6_000_000})
    small = tmp_path / "small"
    small.mkdir(mode=0o755)
    mount = [tool("mount", "mount"), "-t", "tmpfs", "-o", "size=4m,mode=0755", "none", str(small)]
    subprocess.run(mount, check=True, capture_output=True, timeout=30)
    try:
        monkeypatch.setattr(watched.driver, "_instances_path", str(small))
        with watched.operation(), pytest.raises(errors.DiskFull) as caught:
            spawn(watched, instance)
        assert list(small.iterdir()) == []
    finally:
        subprocess.run([tool("umount", "mount"), str(small)], check=True, capture_output=True, timeout=30)
    assert caught.value.step == "config_drive"
    assert instance.uuid not in watched.hypervisor.domains()


def test_a_guest_keeps_the_drive_that_it_has_though_new_ones_are_others(watched: Watched) -> None:
    instance = watched.instance(config_drive=True)
    spawn(watched, instance)
    before = path_of(watched, instance).read_bytes()
    try:
        CONF.set_override("config_drive_format", "vfat")
        watched.driver.reboot(None, instance, [], "HARD")
    finally:
        CONF.clear_override("config_drive_format")
    assert path_of(watched, instance).read_bytes() == before
    assert parts(watched, instance) == []
    found = watched.driver.get_instance_diagnostics(instance)
    assert found.config_drive
    assert len(found.disk_details) == 2


def test_a_bus_of_the_images_choice_has_the_optical_drive(watched: Watched) -> None:
    plain = watched.instance()
    assert plain.image is not None
    properties = {"hw_cdrom_bus": "scsi", "img_config_drive": "mandatory"}
    image = type(plain.image)(url=plain.image.url, properties=properties)
    instance = watched.instance(image=image)
    watched.spawn(instance)
    assert "sda" in [disk.id for disk in watched.driver.get_instance_diagnostics(instance).disk_details]
