# SPDX-License-Identifier: Apache-2.0
"""Every kind of disk goes over, and grows with a resize."""

from __future__ import annotations

import json
import pathlib
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from compute_agent.conf import CONF
from compute_agent.model.block_device import BlockDevice, SourceType
from compute_agent.model.flavor import Flavor
from compute_agent.model.instance import Instance
from compute_agent.model.states import PowerState
from tests.functional.coldmigration.hosts import Host, Migration, Pair, copies, differs, write
from tests.rig import scratch

pytestmark = pytest.mark.timeout(900)

GIB = 2**30
MIB = 2**20
BEFORE = Flavor(vcpus=1, memory_mb=32, root_gb=1, ephemeral_gb=1, swap_mb=8)
AFTER = Flavor(vcpus=2, memory_mb=64, root_gb=2, ephemeral_gb=2, swap_mb=16)
DISKS = ("disk", "disk.eph0")
_VOLUME = "11111111-1111-4111-8111-111111111111"


@pytest.fixture
def configure() -> Iterator[Callable[..., None]]:
    """Set options for one test."""
    changed: list[tuple[str, str | None]] = []

    def change(group: str | None = None, **options: Any) -> None:
        for name, value in options.items():
            CONF.set_override(name, value, group)
            changed.append((name, group))

    yield change
    for name, group in changed:
        CONF.clear_override(name, group)


def _size(disk: pathlib.Path) -> int:
    command = ["qemu-img", "info", "-U", "--output=json", str(disk)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return int(found["virtual-size"])


def _key(host: Host, instance: Instance, name: str) -> pathlib.Path | None:
    path = host.keys / instance.uuid / name
    return path if path.exists() else None


def _volume(directory: pathlib.Path) -> tuple[pathlib.Path, BlockDevice]:
    """A volume that both hosts see, attached to a guest."""
    path = directory / "volume"
    with path.open("wb") as file:
        file.truncate(64 * MIB)
    data = {"device_path": str(path), "format": "raw"}
    connection = {"driver_volume_type": "local", "serial": _VOLUME, "data": data}
    device = BlockDevice(
        source_type=SourceType.VOLUME,
        volume_id=_VOLUME,
        connection_info=connection,
    )
    return path, device


KINDS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "overlays": ({}, {}, {}),
    "copies": ({"use_cow_images": False}, {}, {}),
    "raw": ({}, {"images_type": "raw"}, {}),
    "encrypted": ({}, {}, {"hw:ephemeral_encryption": "true"}),
}
LONG = frozenset({"copies", "raw", "encrypted"})


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.long] if kind in LONG else []) for kind in KINDS]
)
def test_a_resize_grows_every_disk_and_keeps_what_is_on_it(
    pair: Callable[..., Pair], configure: Callable[..., None], tmp_path: pathlib.Path, kind: str
) -> None:
    plain, libvirt, specs = KINDS[kind]
    small, large = (msgspec.structs.replace(flavor, extra_specs=specs) for flavor in (BEFORE, AFTER))
    configure(None, **plain)
    configure("libvirt", **libvirt)
    both = pair()
    instance = both.spawned(small, config_drive=True)
    here, there = both.one.directory(instance), both.other.directory(instance)
    both.one.call(both.one.driver.power_off, instance)
    for number, name in enumerate(DISKS):
        write(here / name, 700, 9, 11 + number, _key(both.one, instance, name))
    names = [*DISKS, "disk.config"]
    before = copies(here, tmp_path / "before", names)
    keys = {name: _kept_key(both.one, instance, name, tmp_path) for name in DISKS}
    moved = both.moved(instance, large)
    assert both.other.state_of(instance) is PowerState.RUNNING
    both.other.call(both.other.driver.power_off, moved.instance)
    sizes = {name: _size(there / name) for name in (*DISKS, "disk.swap")}
    assert sizes == {"disk": 2 * GIB, "disk.eph0": 2 * GIB, "disk.swap": 16 * MIB}
    for name in DISKS:
        subprocess.run(_shrink(there / name, keys[name], 1 * GIB), check=True)
        assert not differs(there / name, before[name], keys[name])
    assert not differs(there / "disk.config", before["disk.config"])
    assert (_key(both.other, instance, "disk") is None) is (kind != "encrypted")
    if kind == "encrypted":
        moved.revert()
        assert both.other.left_of(instance) == [] and _key(both.one, instance, "disk") is not None
        assert both.one.state_of(instance) is PowerState.RUNNING
        return
    moved.confirm()
    assert both.one.left_of(instance) == []


def _kept_key(host: Host, instance: Instance, name: str, directory: pathlib.Path) -> pathlib.Path | None:
    path = _key(host, instance, name)
    if path is None:
        return None
    copy = directory / f"{name}.key"
    copy.write_bytes(path.read_bytes())
    return copy


def _shrink(disk: pathlib.Path, key: pathlib.Path | None, size: int) -> list[str]:
    """Take off what a resize has put on, to compare the rest."""
    form = "raw" if disk.read_bytes()[:4] != b"QFI\xfb" else "qcow2"
    if key is None:
        return ["qemu-img", "resize", "-q", "--shrink", "-f", form, str(disk), str(size)]
    opened = f"driver=qcow2,file.driver=file,file.filename={disk},encrypt.key-secret=key"
    secret = ["--object", f"secret,id=key,file={key}"]
    return ["qemu-img", "resize", "-q", "--shrink", *secret, "--image-opts", opened, str(size)]


def test_disks_that_the_old_flavor_had_not_are_made(pair: Callable[..., Pair]) -> None:
    both = pair()
    instance = both.spawned(Flavor(vcpus=1, memory_mb=32, root_gb=1))
    moved = both.moved(instance, AFTER)
    there = both.other.directory(instance)
    names = [path.name for path in sorted(there.iterdir()) if path.name.startswith("disk")]
    assert names == ["disk", "disk.eph0", "disk.info", "disk.swap"]
    moved.revert()
    here = both.one.directory(instance)
    assert sorted(path.name for path in here.iterdir() if path.name.startswith("disk")) == [
        "disk",
        "disk.info",
    ]


def test_an_image_that_nobody_has_any_more_goes_along(
    pair: Callable[..., Pair], tmp_path: pathlib.Path
) -> None:
    both = pair()
    instance = both.spawned(Flavor(vcpus=1, memory_mb=32, root_gb=1))
    both.one.call(both.one.driver.power_off, instance)
    write(both.one.directory(instance) / "disk", 3, 2, 9)
    before = copies(both.one.directory(instance), tmp_path / "before", ["disk"])
    assert instance.image is not None
    pathlib.Path(instance.image.url.removeprefix("file://")).unlink()
    moved = both.moved(instance)
    both.other.call(both.other.driver.power_off, instance)
    assert not differs(both.other.directory(instance) / "disk", before["disk"])
    assert str(both.other.instances) in _backing(both.other.directory(instance) / "disk")
    moved.confirm()
    assert both.one.left_of(instance) == []


def _backing(disk: pathlib.Path) -> str:
    command = ["qemu-img", "info", "-U", "--output=json", str(disk)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return str(found["full-backing-filename"])


def test_a_volume_is_not_copied_but_connected_there(pair: Callable[..., Pair]) -> None:
    directory = scratch.make()
    path, device = _volume(directory)
    CONF.set_override("allowed_paths", [str(directory)], "volumes")
    try:
        both = pair()
        instance = both.spawned(Flavor(vcpus=1, memory_mb=32, root_gb=1), block_device_mapping=[device])
        moved = both.moved(instance)
        assert not any(file["name"] == path.name for file in moved.data.details["disks"])
        found = both.other.domain(instance).xml().findall("devices/disk/source")
        sources = [node.get("file") for node in found]
        assert str(path) in sources
        moved.revert()
        assert both.one.state_of(instance) is PowerState.RUNNING
    finally:
        CONF.clear_override("allowed_paths", "volumes")
        scratch.remove(directory)


@pytest.mark.long
def test_a_disk_keeps_its_name_though_another_before_it_is_gone(pair: Callable[..., Pair]) -> None:
    both = pair()
    instance = both.spawned(BEFORE)
    wanted = msgspec.structs.replace(BEFORE, swap_mb=0, ephemeral_gb=2)
    moved = Migration(both, instance, wanted)
    for part in (moved.check, moved.receive, moved.send, moved.finish):
        part()
    root = both.other.domain(instance).xml()
    files = [pathlib.Path(node.attrib["file"]).name for node in root.findall("devices/disk/source")]
    targets = [node.attrib["dev"] for node in root.findall("devices/disk/target")]
    names = dict(zip(files, targets, strict=True))
    assert names == {"disk": "vda", "disk.eph0": "vdb"}
