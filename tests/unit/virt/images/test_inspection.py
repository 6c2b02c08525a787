# SPDX-License-Identifier: Apache-2.0
"""Only images that refer to nothing outside themselves get past the inspection."""

from __future__ import annotations

import pytest

from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.virt.images import qemu_img, second_opinion
from compute_agent.virt.images.cache import ImageCache
from tests.unit.virt.images import hostile
from tests.unit.virt.images.conftest import Store, cached_files, qemu

UNSAFE: dict[str, tuple[bytes, str]] = {
    "a backing file": (hostile.qcow2(backing=b"/etc/passwd"), "qcow2"),
    "a backing file over the network": (hostile.qcow2(backing=b"nbd://192.0.2.1/x"), "qcow2"),
    "a data file": (hostile.qcow2(incompatible=1 << 2), "qcow2"),
    "an unknown feature": (hostile.qcow2(incompatible=1 << 40), "qcow2"),
    "encryption of the old kind": (hostile.qcow2(crypt=1), "qcow2"),
    "encryption by LUKS inside": (hostile.qcow2(crypt=2), "qcow2"),
    "impossible clusters": (hostile.qcow2(cluster_bits=63), "qcow2"),
    "a first table that is too small": (hostile.qcow2(size=2**40, l1_size=1), "qcow2"),
    "an ancient version": (hostile.qcow2(version=1), "qcow2"),
    "LUKS said to be raw": (hostile.luks(), "raw"),
    "LUKS said to be qcow2": (hostile.luks(), "qcow2"),
    "qcow2 said to be raw": (hostile.qcow2(), "raw"),
    "qcow2 with a backing file said to be raw": (hostile.qcow2(backing=b"/etc/passwd"), "raw"),
    "qcow2 said to be an optical disk": (hostile.qcow2(), "iso"),
    "qcow2 and an optical disk at once": (hostile.with_iso(hostile.qcow2()), "qcow2"),
    "qcow2 and an optical disk, said to be one": (hostile.with_iso(hostile.qcow2()), "iso"),
    "qcow2 and an optical disk, said to be raw": (hostile.with_iso(hostile.qcow2()), "raw"),
    "qcow2 and a partitioned disk at once": (hostile.with_partitions(hostile.qcow2()), "qcow2"),
    "qcow2 and a partitioned disk, said to be raw": (hostile.with_partitions(hostile.qcow2()), "raw"),
    "a vmdk's text and an optical disk": (hostile.with_iso(hostile.vmdk_descriptor("/etc/shadow")), "iso"),
    "a vmdk's text and an optical disk, said to be raw": (
        hostile.with_iso(hostile.vmdk_descriptor("/etc/shadow")),
        "raw",
    ),
    "a vmdk's text without its title, said to be raw": (
        (b"# any\n  \nversion=1\n" + hostile.vmdk_descriptor("/etc/shadow")).ljust(2**20, b"\0"),
        "raw",
    ),
    "parallels said to be raw": (b"WithoutFreeSpace".ljust(65536, b"\0"), "raw"),
    "a sparse vmdk and an optical disk": (hostile.with_iso(hostile.vmdk_sparse("image")), "vmdk"),
    "a vdi and an optical disk": (hostile.with_iso(hostile.vdi()), "vdi"),
    "a vdi and an optical disk, said to be one": (hostile.with_iso(hostile.vdi()), "iso"),
    "a vhdx and an optical disk, said to be one": (hostile.with_iso(b"vhdxfile"), "iso"),
    "LUKS and an optical disk": (hostile.with_iso(hostile.luks()), "iso"),
    "raw said to be qcow2": (hostile.boot_sector(), "qcow2"),
    "text said to be qcow2": (b"#!/bin/sh\necho hello\n" * 100, "qcow2"),
    "a vmdk whose extent is a host's file": (hostile.vmdk_descriptor("/etc/passwd"), "vmdk"),
    "a vmdk whose extent is beside it": (hostile.vmdk_descriptor("other"), "vmdk"),
    "a vmdk whose extent is a host's file said to be raw": (hostile.vmdk_descriptor("/etc/shadow"), "raw"),
    "a sparse vmdk whose extent is a host's file": (hostile.vmdk_sparse("/etc/passwd"), "vmdk"),
    "a device by a vmdk": (hostile.vmdk_descriptor("/dev/sda", "fullDevice"), "vmdk"),
    "qed said to be raw": (b"QED\0".ljust(65536, b"\0"), "raw"),
    "vhd said to be raw": (b"conectix".ljust(65536, b"\0"), "raw"),
}


@pytest.mark.parametrize("what", UNSAFE)
def test_an_image_that_could_reach_the_host_is_refused(what: str, store: Store, cache: ImageCache) -> None:
    contents, declared = UNSAFE[what]
    store.put("image", contents)
    with pytest.raises(errors.ImageUnsafe):
        cache.ensure(store.image("image", declared))
    assert cached_files(cache) == []


def test_a_real_data_file_is_refused(store: Store, cache: ImageCache) -> None:
    image = store.make("image", options=f"data_file={store.outside}/data,data_file_raw=on")
    with pytest.raises(errors.ImageUnsafe):
        cache.ensure(image)


def test_a_real_chain_of_backing_files_is_refused(store: Store, cache: ImageCache) -> None:
    store.make("base")
    for name, base in (("middle", "base"), ("top", "middle")):
        path = str(store.directory / name)
        qemu("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, path)
    with pytest.raises(errors.ImageUnsafe):
        cache.ensure(store.image("top", "qcow2"))


@pytest.mark.parametrize("size", [2**63 - 512, 2**50, 2049 * 2**30])
def test_a_virtual_size_over_the_limit_is_refused(size: int, store: Store, cache: ImageCache) -> None:
    store.put("image", hostile.qcow2(size=size, l1_size=1))
    with pytest.raises(errors.ImageTooLarge):
        cache.ensure(store.image("image", "qcow2"))
    assert cached_files(cache) == []


def test_a_raw_image_over_the_limit_is_refused_before_it_is_copied(store: Store, cache: ImageCache) -> None:
    CONF.set_override("max_virtual_size_gb", 1, group="images")
    try:
        with store.put("image", b"x").open("r+b") as file:
            file.truncate(2**30 + 1)
        with pytest.raises(errors.ImageTooLarge):
            cache.ensure(store.image("image"))
    finally:
        CONF.clear_override("max_virtual_size_gb", group="images")


@pytest.mark.parametrize("length", [4, 72, 300, 511, 600, 65536, 3 * 65536])
def test_a_qcow2_image_that_ends_within_its_tables_is_unavailable(
    length: int, store: Store, cache: ImageCache
) -> None:
    store.put("image", hostile.qcow2()[:length])
    with pytest.raises(errors.ImageUnavailable):
        cache.ensure(store.image("image", "qcow2"))
    assert cached_files(cache) == []


def test_a_qcow2_image_that_ends_within_its_data_is_unavailable(store: Store, cache: ImageCache) -> None:
    image = store.make("image")
    path = store.directory / "image"
    store.put("image", path.read_bytes()[:-500_000])
    with pytest.raises(errors.ImageUnavailable):
        cache.ensure(image)
    assert cached_files(cache) == []


@pytest.mark.parametrize("disk_format", ["vmdk", "vdi", "vhdx"])
def test_a_foreign_image_that_is_cut_off_is_refused(
    disk_format: str, store: Store, cache: ImageCache
) -> None:
    image = store.make("image", disk_format)
    store.put("image", (store.directory / "image").read_bytes()[:200_000])
    with pytest.raises((errors.ImageUnavailable, errors.ImageUnsafe)):
        cache.ensure(image)
    assert cached_files(cache) == []


@pytest.mark.parametrize("disk_format", ["vmdk", "vdi", "vhdx"])
def test_a_foreign_image_becomes_qcow2_with_the_same_contents(
    disk_format: str, store: Store, cache: ImageCache
) -> None:
    image = cache.ensure(store.make("image", disk_format))
    assert (image.format, image.virtual_size) == ("qcow2", 64 * 2**20)
    source = str(store.directory / "image")
    qemu("qemu-img", "compare", "-q", "-f", disk_format, "-F", "qcow2", source, image.path)


def test_a_stream_optimized_vmdk_is_taken(store: Store, cache: ImageCache) -> None:
    store.make("plain")
    source, made = str(store.directory / "plain"), str(store.directory / "image")
    options = "subformat=streamOptimized"
    qemu("qemu-img", "convert", "-f", "qcow2", "-O", "vmdk", "-o", options, source, made)
    assert cache.ensure(store.image("image", "vmdk")).virtual_size == 64 * 2**20


@pytest.mark.parametrize(
    ("contents", "declared"),
    [
        (hostile.boot_sector(), "raw"),
        (b"any bytes at all", "raw"),
        (hostile.with_iso(b""), "raw"),
        (hostile.with_iso(b""), "iso"),
        (hostile.with_iso(hostile.boot_sector(65536)), "iso"),
    ],
)
def test_plain_contents_are_raw_to_qemu(
    contents: bytes, declared: str, store: Store, cache: ImageCache
) -> None:
    path = store.put("image", contents)
    image = cache.ensure(store.image("image", declared))
    assert (image.format, image.virtual_size) == ("raw", path.stat().st_size)
    with open(image.path, "rb") as file:
        assert file.read() == contents


def test_a_plain_qcow2_image_is_taken_as_it_is(store: Store, cache: ImageCache) -> None:
    image = cache.ensure(store.make("image"))
    with open(image.path, "rb") as file:
        assert file.read() == (store.directory / "image").read_bytes()
    assert image.virtual_size == 64 * 2**20


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"parentCID=ffffffff", b'parentCID=ffffffff\nparentFileNameHint="/etc/passwd"'),
        (b"parentCID=ffffffff", b"parentCID=12345678"),
        (b"parentCID=ffffffff", b""),
        (b"RW ", b'RW 2048 SPARSE "other.vmdk"\nRW '),
        (b"RW ", b'RW 2048 FLAT "/etc/passwd" 0\nRW '),
        (b'createType="monolithicSparse"', b'createType="twoGbMaxExtentSparse"'),
    ],
)
def test_a_vmdk_that_stands_on_other_files_is_refused(
    old: bytes, new: bytes, store: Store, cache: ImageCache
) -> None:
    image = store.make("image", "vmdk")
    store.put("image", hostile.vmdk_with((store.directory / "image").read_bytes(), old, new))
    with pytest.raises(errors.ImageUnsafe):
        cache.ensure(image)
    assert cached_files(cache) == []


def test_a_vhdx_that_stands_on_another_is_refused(store: Store, cache: ImageCache) -> None:
    image = store.make("image", "vhdx")
    store.put("image", hostile.vhdx_with_parent((store.directory / "image").read_bytes()))
    with pytest.raises(errors.ImageUnsafe):
        cache.ensure(image)
    assert cached_files(cache) == []


@pytest.mark.parametrize("offset", [0x1A8, 0x1B8])
def test_a_vdi_that_stands_on_another_is_refused(offset: int, store: Store, cache: ImageCache) -> None:
    image = store.make("image", "vdi")
    store.put("image", hostile.vdi_with((store.directory / "image").read_bytes(), offset))
    with pytest.raises(errors.ImageUnsafe):
        cache.ensure(image)
    assert cached_files(cache) == []


@pytest.mark.parametrize("disk_format", ["qcow2", "vmdk"])
def test_a_file_that_unpacks_to_far_more_is_refused(
    disk_format: str, store: Store, cache: ImageCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(second_opinion, "HARMLESS_BYTES", 2**20)
    plain = store.put("plain", b"\xaa" * (48 * 2**20))
    options = ["-o", "subformat=streamOptimized"] if disk_format == "vmdk" else ["-c"]
    made = str(store.directory / "image")
    qemu("qemu-img", "convert", "-f", "raw", "-O", disk_format, *options, str(plain), made)
    CONF.set_override("max_expansion", 50, group="images")
    try:
        with pytest.raises(errors.ImageTooLarge):
            cache.ensure(store.image("image", disk_format))
        assert cached_files(cache) == []
        CONF.set_override("max_expansion", 1000, group="images")
        assert cache.ensure(store.image("image", disk_format)).virtual_size == 48 * 2**20
    finally:
        CONF.clear_override("max_expansion", group="images")


def test_no_room_for_the_converted_image_is_told_before_it_is_converted(
    store: Store, cache: ImageCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = store.make("image", "vmdk")
    size = (store.directory / "image").stat().st_size
    free = iter([size, 1000])
    monkeypatch.setattr(qemu_img, "free_bytes", lambda path: next(free))
    with pytest.raises(errors.DiskFull):
        cache.ensure(image)
    assert cached_files(cache) == []
