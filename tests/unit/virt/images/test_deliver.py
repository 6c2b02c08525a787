# SPDX-License-Identifier: Apache-2.0
"""A file is put where a destination says: whole, over nothing, and never through a link that leads out."""

from __future__ import annotations

import hashlib
import os
import pathlib
from collections.abc import Iterator

import pytest

from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.virt.images import deliver
from compute_agent.virt.images.deliver import Delivery, Identity

CONTENTS = b"begin" + bytes(300_000) + os.urandom(200_000)


@pytest.fixture
def place(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    path = tmp_path / "snapshots"
    path.mkdir()
    CONF.set_override("allowed_destinations", [f"file://{path}/"], group="images")
    yield path
    CONF.clear_override("allowed_destinations", group="images")


@pytest.fixture
def source(tmp_path: pathlib.Path) -> Iterator[int]:
    path = tmp_path / "source"
    path.write_bytes(CONTENTS)
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


def delivery(place: pathlib.Path, name: str = "copy", token: str = "one") -> Delivery:
    return Delivery(deliver.allow((place / name).as_uri()), token)


def fill(made: Delivery, source: int) -> Identity:
    made.begin()
    while made.copy(source, 100_000):
        pass
    return made.complete()


def names(place: pathlib.Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def test_a_file_appears_whole_with_its_hash_and_is_nobody_elses_business(
    place: pathlib.Path, source: int
) -> None:
    made = delivery(place)
    fill(made, source)
    assert names(place) == ["copy.one.part"]
    assert made.publish() == hashlib.sha256(CONTENTS).hexdigest()
    assert names(place) == ["copy"]
    assert (place / "copy").read_bytes() == CONTENTS
    assert (place / "copy").stat().st_mode & 0o777 == 0o600
    assert (place / "copy").stat().st_blocks * 512 < len(CONTENTS)  # zeros are holes


@pytest.mark.parametrize("kind", ["file", "link", "dangling", "directory"])
def test_nothing_is_replaced_also_what_came_meanwhile(place: pathlib.Path, source: int, kind: str) -> None:
    made = delivery(place)
    made.check()
    fill(made, source)
    taken = place / "copy"
    if kind == "file":
        taken.write_bytes(b"mine")
    elif kind == "directory":
        taken.mkdir()
    else:
        taken.symlink_to("/etc/passwd" if kind == "link" else place / "nowhere")
    with pytest.raises(errors.PermissionDenied):
        made.check()
    with pytest.raises(errors.PermissionDenied):
        made.publish()
    made.remove()
    assert names(place) == ["copy"]
    assert kind != "file" or taken.read_bytes() == b"mine"


def test_where_there_are_no_hard_links_it_is_renamed(
    place: pathlib.Path, source: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_args: object, **_kwargs: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(deliver.posix, "link", no_links)
    made = delivery(place)
    fill(made, source)
    made.publish()
    assert names(place) == ["copy"]
    second = delivery(place, token="two")
    fill(second, source)
    with pytest.raises(errors.PermissionDenied):
        second.publish()


@pytest.mark.parametrize("url", ["{place}/out/copy", "{place}/../copy", "file:///etc/copy"])
def test_a_place_that_is_not_allowed_is_refused(
    place: pathlib.Path, tmp_path: pathlib.Path, url: str
) -> None:
    (place / "out").symlink_to(tmp_path)
    with pytest.raises(errors.PermissionDenied):
        deliver.allow(url.format(place=place.as_uri()))


def test_a_directory_that_is_swapped_for_a_link_is_not_followed(
    place: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (place / "inner").mkdir()
    made = delivery(place, "inner/copy")
    (place / "inner").rmdir()
    (place / "inner").symlink_to(tmp_path)
    for act in (made.check, made.begin):
        with pytest.raises(errors.PermissionDenied):
            act()
    assert "copy.one.part" not in names(tmp_path)


def test_a_part_that_is_a_link_is_not_written_through(
    place: pathlib.Path, tmp_path: pathlib.Path, source: int
) -> None:
    (tmp_path / "victim").write_bytes(b"mine")
    (place / "copy.one.part").symlink_to(tmp_path / "victim")
    fill(delivery(place), source)
    assert (tmp_path / "victim").read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["", ".", "..", "x" * 256])
def test_what_names_no_file_is_refused(place: pathlib.Path, name: str) -> None:
    with pytest.raises(errors.PermissionDenied):
        delivery(place, "").check() if not name else Delivery(
            deliver.allow(f"{place.as_uri()}/{name}"), "one"
        ).check()


def test_no_room_is_told_before_anything_is_written(place: pathlib.Path) -> None:
    with pytest.raises(errors.DiskFull):
        delivery(place).check(2**60)


def test_what_an_earlier_attempt_left_is_removed_and_only_that(place: pathlib.Path, source: int) -> None:
    first = delivery(place)
    fill(first, source)
    other = delivery(place, token="two")
    fill(other, source)
    delivery(place).remove()
    assert names(place) == ["copy.two.part"]
    first.close()
    other.remove()


def test_a_file_that_was_published_is_taken_back_only_if_it_is_still_that_one(
    place: pathlib.Path, source: int
) -> None:
    made = delivery(place)
    identity = fill(made, source)
    made.publish()
    delivery(place).remove()
    assert names(place) == ["copy"]
    delivery(place).remove(identity)
    assert names(place) == []
    (place / "copy").write_bytes(b"another")
    delivery(place).remove(identity)
    assert names(place) == ["copy"]


def test_the_configured_directory_itself_is_made(tmp_path: pathlib.Path) -> None:
    CONF.set_override("allowed_destinations", [f"file://{tmp_path}/new/"], group="images")
    try:
        delivery(tmp_path / "new").check()
        assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    finally:
        CONF.clear_override("allowed_destinations", group="images")


def test_a_disk_that_fills_up_is_told(
    place: pathlib.Path, source: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object) -> int:
        raise OSError(28, "No space left on device")

    made = delivery(place)
    made.begin()
    monkeypatch.setattr(deliver.posix, "pwrite", full)
    with pytest.raises(errors.DiskFull):
        made.copy(source, 1000)
    made.remove()
    assert names(place) == []
