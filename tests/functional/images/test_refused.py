# SPDX-License-Identifier: Apache-2.0
"""Images that no guest is given: each ends in its typed error, leaves nothing, and stands in nobody's way."""

from __future__ import annotations

import os
import pathlib
import subprocess
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from tests.functional.serving import Served, interface, links, tap_of
from tests.rig.bootsector import POLITE, Images

MIB = 2**20
Make = Callable[[Images, pathlib.Path], dict[str, Any]]
"""Makes an image among the allowed ones (or in a directory that is not allowed), as `spawn` names it."""


def fresh(images: Images, suffix: str) -> pathlib.Path:
    return images.directory / f"{uuid.uuid4().hex}{suffix}"


def named(path: pathlib.Path, disk_format: str = "raw", **fields: Any) -> dict[str, Any]:
    return {"id": str(uuid.uuid4()), "url": path.as_uri(), "disk_format": disk_format, **fields}


def qemu_img(*arguments: str | pathlib.Path) -> None:
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True, timeout=60)


def missing(images: Images, _elsewhere: pathlib.Path) -> dict[str, Any]:
    return named(fresh(images, ".raw"))


def empty(images: Images, _elsewhere: pathlib.Path) -> dict[str, Any]:
    path = fresh(images, ".raw")
    path.touch()
    return named(path)


def truncated(images: Images, _elsewhere: pathlib.Path) -> dict[str, Any]:
    whole = images.qcow2(uuid.uuid4().hex, POLITE)
    whole.write_bytes(whole.read_bytes()[:-65536])
    return named(whole, "qcow2")


def cut_in_its_tables(images: Images, _elsewhere: pathlib.Path) -> dict[str, Any]:
    whole = images.qcow2(uuid.uuid4().hex, POLITE)
    whole.write_bytes(whole.read_bytes()[:70_000])
    return named(whole, "qcow2")


def cut_in_its_header(images: Images, _elsewhere: pathlib.Path) -> dict[str, Any]:
    whole = images.qcow2(uuid.uuid4().hex, POLITE)
    whole.write_bytes(whole.read_bytes()[:50])
    return named(whole, "qcow2")


def text(images: Images, _elsewhere: pathlib.Path) -> dict[str, Any]:
    path = fresh(images, ".qcow2")
    path.write_text("this is no disk image\n" * 100)
    return named(path, "qcow2")


def link_to_itself(images: Images, _elsewhere: pathlib.Path) -> dict[str, Any]:
    path = fresh(images, ".raw")
    path.symlink_to(path)
    return named(path)


def directory(images: Images, _elsewhere: pathlib.Path) -> dict[str, Any]:
    path = fresh(images, ".raw")
    path.mkdir()
    return named(path)


def fifo(images: Images, _elsewhere: pathlib.Path) -> dict[str, Any]:
    path = fresh(images, ".raw")
    os.mkfifo(path)
    return named(path)


def link_that_leads_out(images: Images, elsewhere: pathlib.Path) -> dict[str, Any]:
    path = fresh(images, ".raw")
    path.symlink_to(Images(elsewhere).raw("secret", POLITE))
    return named(path)


def dots_that_lead_out(images: Images, elsewhere: pathlib.Path) -> dict[str, Any]:
    outside = Images(elsewhere).raw("secret", POLITE)
    path = os.path.relpath(outside, images.directory)
    return named(outside) | {"url": f"file://{images.directory}/{path}"}


def not_allowed(_images: Images, elsewhere: pathlib.Path) -> dict[str, Any]:
    return named(Images(elsewhere).raw("outside", POLITE))


def neighbour_of_an_allowed_place(images: Images, _elsewhere: pathlib.Path) -> dict[str, Any]:
    return named(pathlib.Path(f"{images.directory}-of-others/disk.raw"))


def wrong_checksum(images: Images, _elsewhere: pathlib.Path) -> dict[str, Any]:
    return named(images.raw(uuid.uuid4().hex, POLITE), checksum=f"sha256:{'0' * 64}")


def backed_by_a_file_of_the_host(images: Images, elsewhere: pathlib.Path) -> dict[str, Any]:
    path = fresh(images, ".qcow2")
    qemu_img("create", "-q", "-f", "qcow2", "-F", "raw", "-b", Images(elsewhere).raw("base"), path)
    return named(path, "qcow2")


def with_its_data_in_a_file_of_the_host(images: Images, elsewhere: pathlib.Path) -> dict[str, Any]:
    path = fresh(images, ".qcow2")
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={elsewhere / 'data'}", path, "1M")
    return named(path, "qcow2")


def qcow2_declared_as_raw(images: Images, _elsewhere: pathlib.Path) -> dict[str, Any]:
    return named(images.qcow2(uuid.uuid4().hex, POLITE), "raw")


def raw_declared_as_qcow2(images: Images, _elsewhere: pathlib.Path) -> dict[str, Any]:
    return named(images.raw(uuid.uuid4().hex, POLITE), "qcow2")


def too_large_for_the_flavor(images: Images, _elsewhere: pathlib.Path) -> dict[str, Any]:
    path = fresh(images, ".qcow2")
    qemu_img("create", "-q", "-f", "qcow2", path, "2G")
    return named(path, "qcow2")


def claiming_petabytes(images: Images, _elsewhere: pathlib.Path) -> dict[str, Any]:
    path = fresh(images, ".qcow2")
    qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", path, "1P")
    return named(path, "qcow2")


def by_plain_http(_images: Images, _elsewhere: pathlib.Path) -> dict[str, Any]:
    return {"id": "web", "url": "http://127.0.0.1:9/image.raw", "disk_format": "raw"}


def by_an_unknown_scheme(_images: Images, _elsewhere: pathlib.Path) -> dict[str, Any]:
    return {"id": "nbd", "url": "nbd://127.0.0.1:9/export", "disk_format": "raw"}


REFUSED: dict[Make, str] = {
    missing: "ImageUnavailable",
    empty: "ImageUnavailable",
    truncated: "ImageUnavailable",
    cut_in_its_tables: "ImageUnavailable",
    cut_in_its_header: "ImageUnavailable",
    text: "ImageUnsafe",
    directory: "ImageUnavailable",
    fifo: "ImageUnavailable",
    link_to_itself: "ImageUnavailable",
    link_that_leads_out: "ImageUnavailable",
    dots_that_lead_out: "ImageUnavailable",
    not_allowed: "ImageUnavailable",
    neighbour_of_an_allowed_place: "ImageUnavailable",
    wrong_checksum: "ImageChecksumMismatch",
    backed_by_a_file_of_the_host: "ImageUnsafe",
    with_its_data_in_a_file_of_the_host: "ImageUnsafe",
    qcow2_declared_as_raw: "ImageUnsafe",
    raw_declared_as_qcow2: "ImageUnsafe",
    too_large_for_the_flavor: "ImageTooLarge",
    claiming_petabytes: "ImageTooLarge",
    by_plain_http: "ImageUnavailable",
    by_an_unknown_scheme: "ImageUnavailable",
}


@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__)
def test_a_refused_image_leaves_nothing_and_is_in_nobodys_way(
    served: Served, images: Images, bridge: str, tmp_path: pathlib.Path, make: Make
) -> None:
    vif = interface(bridge)
    tap = tap_of(vif)
    instance = served.describe(image=make(images, tmp_path), generation=5, network_info=[vif])
    instance["flavor"]["root_gb"] = 1
    error = served.fail("spawn", instance=instance)
    assert error["code"] == REFUSED[make], error
    assert error["step"] in ("image", "disk"), error
    assert served.left_of(instance["uuid"]) == []
    assert tap not in links()
    served.do("spawn", instance=instance | {"image": served.describe()["image"]})
    assert tap in links()
    served.guest(instance["uuid"]).wait_console("Hello")
    served.do("destroy", instance_uuid=instance["uuid"])
    assert served.left_of(instance["uuid"]) == []
    assert tap not in links()
