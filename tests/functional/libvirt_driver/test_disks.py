# SPDX-License-Identifier: Apache-2.0
"""The disks of real guests: which there are, what is on them, and that they stay."""

import contextlib
import json
import os
import pathlib
import subprocess
import uuid
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import msgspec
import pytest

from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.block_device import BlockDevice, SourceType
from compute_agent.model.flavor import Flavor
from compute_agent.model.image import DiskFormat, Image
from compute_agent.model.instance import Instance
from compute_agent.model.states import PowerState
from compute_agent.virt.images import process
from compute_agent.virt.libvirt import room
from tests.functional.libvirt_driver.conftest import Watched
from tests.rig.bootsector import POLITE

GIB = 2**30
MIB = 2**20
GREETING = b"Hello"
SMALL = Flavor(vcpus=1, memory_mb=32)


@pytest.fixture
def configure(settings: None, tmp_path: pathlib.Path) -> Iterator[Callable[..., None]]:
    """Set options for one test; the keys of encrypted disks are in a directory of its own."""
    changed: list[tuple[str, str | None]] = []

    def change(group: str | None = None, **options: Any) -> None:
        for name, value in options.items():
            CONF.set_override(name, value, group)
            changed.append((name, group))

    change("ephemeral_storage_encryption", key_directory=str(tmp_path / "keys"))
    yield change
    for name, group in changed:
        CONF.clear_override(name, group)


def told(path: pathlib.Path, *, chain: bool = False) -> dict[str, Any]:
    """What qemu-img says of a disk."""
    command = ["qemu-img", "info", "-U", "--output=json", str(path)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


def devices(watched: Watched, instance: Instance) -> dict[str, dict[str, str]]:
    """What libvirt says of each disk of a guest that matters here, by its file's name."""
    found = {}
    for disk in watched.guest(instance).xml().findall("devices/disk"):
        source, target, driver = disk.find("source"), disk.find("target"), disk.find("driver")
        assert source is not None and target is not None and driver is not None
        name = pathlib.Path(source.attrib["file"]).name
        found[name] = dict(driver.attrib) | {"target": target.attrib["dev"], "bus": target.attrib["bus"]}
        found[name]["serial"] = disk.findtext("serial") or ""
    return found


def greets(watched: Watched, instance: Instance) -> None:
    watched.wait(lambda: GREETING in watched.driver.get_console_output(None, instance), "the greeting")


def type_of(path: pathlib.Path) -> str:
    """What `blkid` finds in a raw file."""
    command = ["blkid", "--probe", "-o", "export", str(path)]
    return subprocess.run(command, capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    ("images_type", "use_cow", "image_format", "expected", "stands_on_the_cache"),
    [
        ("qcow2", True, "qcow2", "qcow2", True),
        pytest.param("qcow2", False, "raw", "qcow2", False, marks=pytest.mark.long),
        ("raw", True, "raw", "raw", False),
        pytest.param("raw", True, "qcow2", "raw", False, marks=pytest.mark.long),
        pytest.param("flat", False, "qcow2", "raw", False, marks=pytest.mark.long),
    ],
)
def test_a_root_disk_is_of_the_configured_kind_and_of_the_flavors_size(
    watched: Watched,
    configure: Callable[..., None],
    images_type: str,
    use_cow: bool,
    image_format: str,
    expected: str,
    stands_on_the_cache: bool,
) -> None:
    configure("libvirt", images_type=images_type)
    configure(use_cow_images=use_cow)
    made = getattr(watched.hypervisor.images, image_format)(f"root-{uuid.uuid4().hex}", POLITE)
    instance = watched.instance(
        image=Image(url=made.as_uri(), disk_format=DiskFormat(image_format)),
        flavor=Flavor(vcpus=1, memory_mb=32, root_gb=1),
    )
    watched.spawn(instance)
    greets(watched, instance)
    disk = told(watched.directory(instance) / "disk")
    assert (disk["format"], disk["virtual-size"]) == (expected, GIB)
    assert ("backing-filename" in disk) is stands_on_the_cache
    assert disk["actual-size"] < 16 * MIB, "it has holes"
    assert devices(watched, instance)["disk"]["type"] == expected


def test_every_disk_stays_through_reboots_whatever_the_configuration_says_then(
    watched: Watched, configure: Callable[..., None]
) -> None:
    further = watched.hypervisor.images.raw(f"further-{uuid.uuid4().hex}", size=2 * MIB)
    instance = watched.instance(
        flavor=Flavor(vcpus=1, memory_mb=32, ephemeral_gb=1, swap_mb=8),
        block_device_mapping=[
            BlockDevice(source_type=SourceType.BLANK, size_gb=2, mountpoint="/dev/vdf"),
            BlockDevice(source_type=SourceType.IMAGE, image=Image(url=further.as_uri()), disk_bus="sata"),
        ],
    )
    watched.spawn(instance)
    greets(watched, instance)
    at_first = devices(watched, instance)
    assert {
        name: (disk["type"], disk["target"], disk["bus"], disk["serial"]) for name, disk in at_first.items()
    } == {
        "disk": ("qcow2", "vda", "virtio", "root"),
        "disk.eph0": ("qcow2", "vdb", "virtio", "ephemeral0"),
        "disk.eph1": ("qcow2", "vdf", "virtio", "ephemeral1"),
        "disk.swap": ("raw", "vdc", "virtio", "swap"),
        "disk.image0": ("qcow2", "sda", "sata", "image0"),
    }
    configure("libvirt", images_type="raw")
    watched.driver.reboot(None, instance, [], "HARD")
    assert devices(watched, instance) == at_first
    watched.driver.power_off(instance)
    watched.driver.power_on(None, instance, [])
    assert devices(watched, instance) == at_first
    sizes = {path.name: told(path)["virtual-size"] for path in watched.directory(instance).glob("disk.eph*")}
    assert sizes == {"disk.eph0": GIB, "disk.eph1": 2 * GIB}


@pytest.mark.parametrize(
    ("images_type", "file_system"), [("raw", "ext4"), ("qcow2", "ext3"), ("raw", "ext2"), ("raw", "none")]
)
def test_an_ephemeral_disk_has_a_labelled_file_system_and_swap_its_header(
    watched: Watched,
    configure: Callable[..., None],
    tmp_path: pathlib.Path,
    images_type: str,
    file_system: str,
) -> None:
    configure("libvirt", images_type=images_type)
    configure(default_ephemeral_format=file_system)
    instance = watched.instance(
        flavor=Flavor(vcpus=1, memory_mb=32, ephemeral_gb=1, swap_mb=8), start_paused=True
    )
    watched.spawn(instance)
    raw, directory = tmp_path / "ephemeral", watched.directory(instance)
    command = ["qemu-img", "convert", "-U", "-f", images_type, "-O", "raw", directory / "disk.eph0", raw]
    subprocess.run(command, check=True)
    found = type_of(raw)
    if file_system == "none":
        assert found == ""
    else:
        assert f"TYPE={file_system}" in found and "LABEL=ephemeral0" in found
        check = subprocess.run(["/sbin/e2fsck", "-f", "-n", str(raw)], capture_output=True, text=True)
        assert check.returncode == 0, check.stdout
    swap = type_of(directory / "disk.swap")
    assert "TYPE=swap" in swap and "LABEL=swap" in swap
    assert os.stat(directory / "disk.swap").st_size == 8 * MIB


def test_guests_of_windows_get_a_blank_ephemeral_disk(
    watched: Watched, configure: Callable[..., None], tmp_path: pathlib.Path
) -> None:
    configure("libvirt", images_type="raw")
    instance = watched.instance(flavor=Flavor(vcpus=1, memory_mb=32, ephemeral_gb=1), start_paused=True)
    assert instance.image is not None
    image = Image(url=instance.image.url, properties={"os_type": "windows"})
    instance = Instance(uuid=instance.uuid, flavor=instance.flavor, image=image, start_paused=True)
    watched.spawn(instance)
    assert type_of(watched.directory(instance) / "disk.eph0") == ""


def test_disks_have_the_configured_modes_and_the_flavors_limits(
    watched: Watched, configure: Callable[..., None]
) -> None:
    configure("libvirt", disk_cachemodes=["file=writeback", "block=none"], hw_disk_discard="unmap")
    configure("libvirt", disk_detect_zeroes="unmap", disk_io_mode="threads")
    limits = {"quota:disk_read_iops_sec": "111", "quota:disk_write_bytes_sec": "4194304"}
    watched_instance = watched.spawned(flavor=Flavor(vcpus=1, memory_mb=32, extra_specs=limits))
    found = devices(watched, watched_instance)["disk"]
    assert (found["cache"], found["discard"], found["detect_zeroes"], found["io"]) == (
        "writeback",
        "unmap",
        "unmap",
        "threads",
    )
    command = ["virsh", "-c", watched.hypervisor.uri, "blkdeviotune", watched_instance.uuid, "vda"]
    seen = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    values = {
        name.strip(): value.strip() for name, _, value in (line.partition(":") for line in seen.splitlines())
    }
    assert values["read_iops_sec"] == "111"
    assert values["write_bytes_sec"] == "4194304"
    assert values["total_iops_sec"] == "0"


def test_a_hard_reboot_takes_over_what_is_configured_now_and_a_soft_one_does_not(
    watched: Watched, configure: Callable[..., None]
) -> None:
    instance = watched.spawned()
    assert "discard" not in devices(watched, instance)["disk"]
    configure("libvirt", hw_disk_discard="unmap")
    watched.driver.power_off(instance)
    watched.driver.power_on(None, instance, [])
    assert "discard" not in devices(watched, instance)["disk"]
    watched.driver.reboot(None, instance, [], "HARD")
    assert devices(watched, instance)["disk"]["discard"] == "unmap"


def test_a_hard_reboot_never_takes_a_disk_away_that_the_record_does_not_know(
    watched: Watched, configure: Callable[..., None]
) -> None:
    instance = watched.spawned(flavor=Flavor(vcpus=1, memory_mb=32, swap_mb=8))
    configure("libvirt", hw_disk_discard="unmap")
    forgotten = msgspec.structs.replace(instance, flavor=SMALL)
    watched.driver.reboot(None, forgotten, [], "HARD")
    found = devices(watched, instance)
    assert found.keys() == {"disk", "disk.swap"}
    assert "discard" not in found["disk"]


def test_a_preallocated_disk_takes_all_its_room_at_once(
    watched: Watched, configure: Callable[..., None]
) -> None:
    configure(preallocate_images="space")
    instance = watched.spawned(flavor=Flavor(vcpus=1, memory_mb=32, swap_mb=64))
    taken = {
        name: os.stat(watched.directory(instance) / name).st_blocks * 512 for name in ("disk", "disk.swap")
    }
    assert taken["disk.swap"] >= 64 * MIB
    assert taken["disk"] >= MIB


PASSPHRASE = "a passphrase of the scheduler's"


def encrypted(watched: Watched, encryption: dict[str, Any] | None = None, **flavor: Any) -> Instance:
    """An instance whose disks QEMU encrypts."""
    root = BlockDevice(source_type=SourceType.IMAGE, boot_index=0, encryption=encryption)
    asked = {"hw:ephemeral_encryption": "true"}
    return watched.instance(
        flavor=Flavor(vcpus=1, memory_mb=32, extra_specs=asked, **flavor), block_device_mapping=[root]
    )


def opens(disk: pathlib.Path, key: pathlib.Path) -> bool:
    """Whether a disk can be read with what is in the file `key`."""
    opened = f"driver=qcow2,file.filename={disk},encrypt.key-secret=key"
    command = ["qemu-io", "-U", "-r", "--object", f"secret,id=key,file={key}", "--image-opts", opened]
    return subprocess.run([*command, "-c", "read 0 512"], capture_output=True).returncode == 0


def opens_without(disk: pathlib.Path, scratch: pathlib.Path) -> bool:
    """Whether a disk can be read without a key."""
    command = ["qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", disk, scratch / "without"]
    return subprocess.run(command, capture_output=True).returncode == 0


def test_a_guest_boots_from_an_encrypted_disk_that_nobody_can_read_without_its_key(
    watched: Watched, configure: Callable[..., None], tmp_path: pathlib.Path
) -> None:
    instance = encrypted(watched, swap_mb=8)
    watched.spawn(instance)
    greets(watched, instance)
    keys, wrong = tmp_path / "keys" / instance.uuid, tmp_path / "wrong"
    wrong.write_text("not this one")
    for name in ("disk", "disk.swap"):
        disk = watched.directory(instance) / name
        assert told(disk)["format-specific"]["data"]["encrypt"]["format"] == "luks"
        assert not opens_without(disk, tmp_path)
        assert not opens(disk, wrong)
        assert opens(disk, keys / name)
    assert len((keys / "disk").read_text()) == 64
    shown = shown_of(watched, instance)
    for key in keys.iterdir():
        assert key.stat().st_mode & 0o077 == 0
        assert key.read_text() not in shown
    watched.driver.destroy(None, instance, [], destroy_disks=False)
    assert keys.is_dir()
    watched.driver.destroy(None, instance, [])
    assert not keys.exists()


def shown_of(watched: Watched, instance: Instance) -> str:
    """What others may see of a running guest: definitions, arguments, logs. Libvirt keeps no secret."""
    with watched.guest(instance).domain() as domain:
        shown = str(domain.XMLDesc()) + str(domain.XMLDesc(2))
        assert domain.connect().listSecrets() == []
    pid = watched.hypervisor.qemu_pid(instance.uuid)
    return shown + pathlib.Path(f"/proc/{pid}/cmdline").read_text() + watched.hypervisor.log_text()


@pytest.mark.long
def test_a_guest_with_encrypted_disks_comes_up_again_whatever_was_restarted(
    watched: Watched, configure: Callable[..., None]
) -> None:
    instance = encrypted(watched, {"passphrase": PASSPHRASE}, ephemeral_gb=1)
    watched.spawn(instance)
    watched.driver.reboot(None, instance, [], "HARD")
    watched.driver.suspend(None, instance)
    watched.driver.resume(None, instance, [])
    watched.outside(watched.hypervisor.restart)
    watched.wait(lambda: watched.state(instance) is PowerState.RUNNING, "libvirt's return")
    watched.driver.power_off(instance)
    watched.driver.power_on(None, instance, [])
    assert watched.state(instance) is PowerState.RUNNING
    assert told(watched.directory(instance) / "disk.eph0")["encrypted"]


def test_a_disk_whose_making_a_crash_of_the_host_cut_off_is_made_again(watched: Watched) -> None:
    instance = watched.instance(flavor=Flavor(vcpus=1, memory_mb=32, swap_mb=8))
    with watched.operation() as work:
        for step in watched.spawn_steps(instance):
            if step.name == "define":
                break
            step.do()
    (watched.directory(instance) / "disk").write_bytes(b"")  # it has its name, and never got its contents
    owner = watched.directory(instance) / "owner"
    owner.write_text(json.dumps(json.loads(owner.read_text()) | {"boot_id": "of another boot"}))
    with watched.operation(operation_id=work.operation_id, attempts=2):
        watched.spawn(instance)
    greets(watched, instance)


@pytest.fixture
def small(
    watched: Watched, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[pathlib.Path]:
    """Instances are on a file system of 4 MiB that says that it has a TiB, and their images are not."""
    found = tmp_path / "small"
    found.mkdir(mode=0o755)
    command = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=0755", "none", str(found)]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    monkeypatch.setattr(watched.driver, "_instances_path", str(found))
    monkeypatch.setattr(room, "disk", lambda path: room.Disk(2**40, 2**40))
    yield found
    subprocess.run(["umount", "-l", str(found)], check=True, capture_output=True, timeout=30)


@pytest.mark.parametrize("step", ["directory", "disk", "image_disks", "blank_disks"])
def test_a_disk_that_is_full_is_told_at_each_step_and_leaves_nothing(
    watched: Watched, small: pathlib.Path, step: str
) -> None:
    further = watched.hypervisor.images.raw(f"further-{uuid.uuid4().hex}")
    instance = watched.instance(
        flavor=Flavor(vcpus=1, memory_mb=32, swap_mb=1),
        block_device_mapping=[
            BlockDevice(source_type=SourceType.IMAGE, image=Image(url=further.as_uri())),
            BlockDevice(source_type=SourceType.BLANK, size_gb=1),
        ],
    )
    with watched.operation() as work:
        for one in watched.spawn_steps(instance):
            if one.name == step:
                break
            one.do()
    with (small / "ballast").open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while ballast.write(bytes(4096)):
            pass
    again = watched.operation(operation_id=work.operation_id, attempts=2)
    with again, pytest.raises(errors.DiskFull) as caught:
        watched.spawn(instance)
    assert caught.value.step == step
    assert os.listdir(small) == ["ballast"]
    assert instance.uuid not in watched.hypervisor.domains()


def test_a_spawn_from_a_cached_image_runs_one_program(watched: Watched) -> None:
    first = watched.spawned()
    again = watched.instance(image=first.image)
    with mock.patch.object(process, "run", autospec=True, side_effect=process.run) as run:
        watched.spawn(again)
    assert [call.args[0][:2] for call in run.call_args_list] == [["qemu-img", "create"]]


def test_the_disks_of_a_guest_are_told_with_their_sizes(watched: Watched) -> None:
    instance = watched.spawned(flavor=Flavor(vcpus=1, memory_mb=32, root_gb=1, swap_mb=8))
    root, swap = json.loads(watched.driver.get_instance_disk_info(instance))
    directory = watched.directory(instance)
    assert (root["path"], root["type"], root["virt_disk_size"]) == (str(directory / "disk"), "qcow2", GIB)
    assert root["backing_file"] == pathlib.Path(told(directory / "disk")["backing-filename"]).name
    assert 0 < root["disk_size"] < MIB
    assert root["over_committed_disk_size"] == GIB - root["disk_size"]
    assert (swap["type"], swap["virt_disk_size"], swap["backing_file"]) == ("raw", 8 * MIB, "")
    with pytest.raises(errors.InstanceNotFound):
        watched.driver.get_instance_disk_info(watched.instance())


def test_a_device_gets_the_next_free_name(watched: Watched) -> None:
    instance = watched.spawned(flavor=Flavor(vcpus=1, memory_mb=32, swap_mb=8))
    name = watched.driver.get_device_name_for_instance
    blank = BlockDevice(source_type=SourceType.BLANK, size_gb=1)
    assert name(instance, [], blank) == "/dev/vdc"
    named = BlockDevice(source_type=SourceType.BLANK, size_gb=1, mountpoint="/dev/vdc")
    assert name(instance, [named], blank) == "/dev/vdd"
    scsi = BlockDevice(source_type=SourceType.BLANK, size_gb=1, disk_bus="scsi")
    assert name(instance, [], scsi) == "/dev/sda"
    assert watched.driver.default_root_device_name(instance, instance.image, None) == "/dev/vda"
    ide = Image(url="file:///x", properties={"hw_disk_bus": "ide"})
    assert watched.driver.default_root_device_name(instance, ide, None) == "/dev/hda"
    ephemerals: list[dict[str, Any]] = [{"device_name": None}, {"device_name": "/dev/vdb"}]
    mapped: list[dict[str, Any]] = [{"mount_device": None, "disk_bus": "sata"}, {"mount_device": None}]
    watched.driver.default_device_names_for_instance(instance, "/dev/vda", ephemerals, mapped)
    assert [device["device_name"] for device in ephemerals] == ["/dev/vdc", "/dev/vdb"]
    assert [device["mount_device"] for device in mapped] == ["/dev/sda", "/dev/vdd"]


@pytest.mark.parametrize(
    ("mapping", "refusal"),
    [
        (BlockDevice(source_type=SourceType.BLANK), errors.InvalidArguments),
        (BlockDevice(source_type=SourceType.IMAGE), errors.InvalidArguments),
        (
            BlockDevice(source_type=SourceType.BLANK, size_gb=1, encryption={"provider": "plain"}),
            errors.UnsupportedOperation,
        ),
        (
            BlockDevice(source_type=SourceType.BLANK, size_gb=1, encryption={"passphrase": 7}),
            errors.InvalidArguments,
        ),
        (BlockDevice(source_type=SourceType.BLANK, size_gb=1, disk_bus="tape"), errors.InvalidArguments),
    ],
)
def test_a_disk_that_can_not_be_is_refused_and_nothing_is_left(
    watched: Watched, mapping: BlockDevice, refusal: type[errors.ComputeError]
) -> None:
    instance = watched.instance(block_device_mapping=[mapping])
    with pytest.raises(refusal):
        watched.spawn(instance)
    assert watched.left_of(instance) == []
