# SPDX-License-Identifier: Apache-2.0
"""The cache keeps what is used, drops what is old or too much, and trusts nothing after an unclean stop."""

from __future__ import annotations

import os
import pathlib
import time
from collections.abc import Callable, Iterator

import pytest

from compute_agent import failpoints, steps
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.virt.images import disks, housekeeping, soundness, usage
from compute_agent.virt.images.cache import CachedImage, ImageCache
from tests.unit.virt.images import hostile
from tests.unit.virt.images.conftest import Store, cached_files

CONTENTS = hostile.boot_sector(256 * 1024)
OLD_S = 2 * 86400


@pytest.fixture
def instances(cache: ImageCache) -> str:
    """The directory of the instances, which the cache is in."""
    return os.path.dirname(cache.directory)


def name_of(image: CachedImage) -> str:
    return os.path.basename(image.path)


def age(image: CachedImage, seconds: float = OLD_S) -> None:
    """Let it be long since the image was used."""
    before = time.time() - seconds
    os.utime(f"{image.path}.json", (before, before))


def some(cache: ImageCache, store: Store, name: str, last: bytes = b"") -> CachedImage:
    store.put(name, CONTENTS + name.encode() + last)
    return cache.ensure(store.image(name))


def test_an_unused_image_is_dropped_once_it_is_old(cache: ImageCache, store: Store, instances: str) -> None:
    old, young = some(cache, store, "old"), some(cache, store, "young")
    age(old)
    report = cache.manage(instances)
    assert report["removed"] == [name_of(old)]
    assert (report["kept"], report["damaged"]) == (1, [])
    assert report["freed_bytes"] > 0
    assert cached_files(cache) == [name_of(young), f"{name_of(young)}.json"]


def test_a_dropped_image_is_fetched_again(cache: ImageCache, store: Store, instances: str) -> None:
    age(some(cache, store, "image"))
    cache.manage(instances)
    assert cache.cached(store.image("image")) is None
    assert os.path.exists(cache.ensure(store.image("image")).path)


def test_use_makes_an_image_young(cache: ImageCache, store: Store, instances: str) -> None:
    image = some(cache, store, "image")
    age(image)
    other = ImageCache(cache.directory)
    other.ensure(store.image("image"))
    assert other.manage(instances)["removed"] == []
    other.close()


def test_an_image_that_a_disk_stands_on_is_kept(cache: ImageCache, store: Store, instances: str) -> None:
    image = cache.ensure(store.make("image"))
    age(image)
    directory = pathlib.Path(instances) / "an-instance" / "deeper"
    directory.mkdir(parents=True)
    disks.create_overlay(str(directory / "disk"), image.path, image.format, 128 * 2**20)
    assert cache.manage(instances)["removed"] == []
    (directory / "disk").unlink()
    assert cache.manage(instances)["removed"] == [name_of(image)]


def test_an_image_that_a_domain_names_is_kept(cache: ImageCache, store: Store, instances: str) -> None:
    store.put("vmlinuz", CONTENTS)
    path = cache.ensure_file(store.url("vmlinuz"))
    os.utime(f"{path}.json", (0, 0))
    xml = f"<domain><os><kernel>{path}</kernel></os></domain>"
    assert cache.manage(instances, in_use=[xml])["removed"] == []
    assert cache.manage(instances)["removed"] == [os.path.basename(path)]


def test_what_is_asked_for_is_kept(cache: ImageCache, store: Store, instances: str) -> None:
    image = some(cache, store, "image")
    store.put("vmlinuz", CONTENTS)
    kernel = cache.ensure_file(store.url("vmlinuz"))
    age(image)
    os.utime(f"{kernel}.json", (0, 0))
    gone = store.image("no-such-image")
    report = cache.manage(instances, keep=[store.image("image"), gone], files=[store.url("vmlinuz")])
    assert (report["removed"], report["kept"]) == ([], 2)


def test_what_can_not_be_told_is_not_dropped(
    cache: ImageCache, store: Store, instances: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = some(cache, store, "image")
    age(image)
    (pathlib.Path(instances) / "disk").write_bytes(b"QFI\xfb")

    def fail(path: str) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(usage, "backing_of", fail)
    with pytest.raises(errors.HypervisorError):
        cache.manage(instances)
    assert cache.cached(store.image("image")) == image


def test_over_the_limit_the_longest_unused_go_first(
    cache: ImageCache, store: Store, instances: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [some(cache, store, name) for name in ("one", "two", "three", "four")]
    for number, image in enumerate(images):
        age(image, 4000 - 1000 * number)
    monkeypatch.setattr(housekeeping, "GIB", os.stat(images[0].path).st_blocks * 512)
    CONF.set_override("max_size_gb", 2, group="image_cache")
    try:
        report = cache.manage(instances, in_use=[images[1].path])
    finally:
        CONF.clear_override("max_size_gb", group="image_cache")
    assert report["removed"] == [name_of(images[0]), name_of(images[2])]
    assert report["kept"] == 2


def test_what_was_used_a_moment_ago_is_kept_whatever_the_limit(
    cache: ImageCache, store: Store, instances: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    some(cache, store, "image")
    monkeypatch.setattr(housekeeping, "GIB", 1)
    CONF.set_override("max_size_gb", 1, group="image_cache")
    try:
        assert cache.manage(instances)["removed"] == []
    finally:
        CONF.clear_override("max_size_gb", group="image_cache")


def test_files_of_others_are_left_alone_and_leftovers_are_not(
    cache: ImageCache, store: Store, instances: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    some(cache, store, "image")
    directory = pathlib.Path(cache.directory)
    ours = ["0" * 40, f"{'1' * 40}.json", f"{'2' * 40}.damaged", f"{'3' * 40}.json.new", f"{'4' * 40}.x.part"]
    for name in [*ours, "README", "swap_1"]:
        (directory / name).write_bytes(b"x")
    cache.manage(instances)
    assert set(ours[:4]) <= set(cached_files(cache)), "they are too young"
    monkeypatch.setattr(housekeeping, "_age_s", lambda path: OLD_S)
    cache.manage(instances)
    left = {name for name in cached_files(cache) if len(name) < 40}
    assert (left, set(ours) & set(cached_files(cache))) == ({"README", "swap_1"}, set())


def test_a_crash_between_the_stamp_and_the_image_leaves_what_the_next_round_removes(
    cache: ImageCache, store: Store, instances: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = some(cache, store, "image")
    age(image)
    failpoints.arm("images.forgotten=raise:Internal*1")
    try:
        with pytest.raises(errors.Internal):
            cache.manage(instances)
    finally:
        failpoints.arm("")
    assert cache.cached(store.image("image")) is None
    monkeypatch.setattr(housekeeping, "_age_s", lambda path: OLD_S)
    cache.manage(instances)
    assert cached_files(cache) == []


def test_a_round_is_cancelled_between_two_images(cache: ImageCache, store: Store, instances: str) -> None:
    image = some(cache, store, "image")
    age(image)
    work = steps.Work("one")
    work.cancel()
    with steps.working(work), pytest.raises(errors.Cancelled):
        cache.manage(instances)
    assert cache.cached(store.image("image")) == image


def test_an_empty_host_has_nothing_to_drop(cache: ImageCache, instances: str) -> None:
    assert cache.manage(instances)["kept"] == 0


# --- after an unclean stop -------------------------------------------------------------------------

Restart = Callable[[], ImageCache]


@pytest.fixture
def restart(cache: ImageCache) -> Iterator[Restart]:
    """Begin again as after the power failed: nobody has closed the cache."""
    made: list[ImageCache] = []

    def again() -> ImageCache:
        made.append(ImageCache(cache.directory))
        return made[-1]

    yield again
    for one in made:
        one.close()


def spoil(image: CachedImage) -> None:
    """Change a byte as a disk does: neither size nor times tell."""
    before = os.stat(image.path)
    with open(image.path, "r+b") as file:
        file.seek(1000)
        file.write(b"?")
    os.utime(image.path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were hashed."""
    seen: list[str] = []
    real = soundness.digest
    monkeypatch.setattr(soundness, "digest", lambda path: (seen.append(path), real(path))[1])
    return seen


def test_after_an_unclean_stop_a_damaged_image_is_set_aside_and_fetched_again(
    cache: ImageCache, store: Store, restart: Restart
) -> None:
    image = some(cache, store, "image")
    good = pathlib.Path(image.path).read_bytes()
    spoil(image)
    again = restart().ensure(store.image("image"))
    assert pathlib.Path(again.path).read_bytes() == good
    assert pathlib.Path(f"{image.path}.damaged").read_bytes() != good


def test_after_an_unclean_stop_each_image_is_hashed_once(
    cache: ImageCache, store: Store, restart: Restart, hashed: list[str]
) -> None:
    image = some(cache, store, "image")
    other = restart()
    assert other.ensure(store.image("image")) == image
    assert other.ensure(store.image("image")) == image
    assert hashed == [image.path]


def test_after_a_clean_stop_nothing_is_hashed(
    cache: ImageCache, store: Store, restart: Restart, hashed: list[str]
) -> None:
    some(cache, store, "image")
    cache.close()
    restart().ensure(store.image("image"))
    assert hashed == []


def test_doubt_outlives_a_clean_stop_until_all_is_known(
    cache: ImageCache, store: Store, restart: Restart, hashed: list[str]
) -> None:
    one, two = some(cache, store, "one"), some(cache, store, "two")
    second = restart()
    second.ensure(store.image("one"))
    second.close()
    third = restart()
    third.ensure(store.image("two"))
    third.ensure(store.image("one"))
    third.close()
    restart().ensure(store.image("one"))
    assert hashed == [one.path, two.path, one.path]


def test_a_converted_image_is_known_by_its_own_hash(
    cache: ImageCache, store: Store, restart: Restart, hashed: list[str]
) -> None:
    image = cache.ensure(store.make("image", "vmdk"))
    assert restart().ensure(store.image("image", "vmdk")) == image
    assert hashed == [image.path]


def test_housekeeping_finds_damaged_images_after_an_unclean_stop(
    cache: ImageCache, store: Store, instances: str, restart: Restart
) -> None:
    bad, used, good = (some(cache, store, name) for name in ("bad", "used", "good"))
    spoil(bad)
    spoil(used)
    report = restart().manage(instances, in_use=[used.path])
    assert (sorted(report["damaged"]), report["kept"]) == (sorted(map(name_of, (bad, used))), 1)
    assert not os.path.exists(bad.path)
    assert os.path.exists(used.path), "a guest needs it"
    assert os.path.exists(good.path)


# --- ahead of time ---------------------------------------------------------------------------------


def test_images_are_fetched_ahead_of_time(cache: ImageCache, store: Store) -> None:
    some(cache, store, "here")
    store.put("new", CONTENTS)
    told = cache.prefetch([store.image("here"), store.image("new")])
    made = cache.cached(store.image("new"))
    assert made is not None
    assert told == {"fetched": [name_of(made)], "cached": 1}


def test_one_that_can_not_be_had_does_not_keep_the_others(cache: ImageCache, store: Store) -> None:
    store.put("new", CONTENTS)
    with pytest.raises(errors.ImageUnavailable):
        cache.prefetch([store.image("missing"), store.image("new")])
    assert cache.cached(store.image("new")) is not None
