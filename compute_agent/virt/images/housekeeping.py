# SPDX-License-Identifier: Apache-2.0
"""Drop what the cache need not keep: unused images that are old, or too many; damaged ones; leftovers.

An image goes by its stamp: without one, nobody uses it. A crash in between leaves a file
without a stamp, which the next round removes. Everything here runs in native threads.
"""

import contextlib
import dataclasses
import os
import posix
import re
from collections.abc import Callable, Set

from compute_agent import failpoints, steps
from compute_agent.conf import CONF
from compute_agent.model import clock
from compute_agent.virt.images import stamp
from compute_agent.virt.images.part import sweep
from compute_agent.virt.images.soundness import Soundness, stamped

GIB = 2**30
DAMAGED = ".damaged"
_OURS = re.compile(r"([0-9a-f]{40})(\.damaged|\.json|\.json\.new)?")
IN_FLIGHT_S = 600.0
"""An image that was used so short a time ago may be about to become a disk."""


@dataclasses.dataclass
class Report:
    """What was done. Names are the images' in the cache; sizes what they take on the disk, in bytes."""

    removed: list[str] = dataclasses.field(default_factory=list)
    damaged: list[str] = dataclasses.field(default_factory=list)
    kept: int = 0
    freed_bytes: int = 0
    size_bytes: int = 0


@dataclasses.dataclass(frozen=True)
class _Image:
    path: str
    used: bool
    bytes: int
    age_s: float

    @property
    def name(self) -> str:
        return os.path.basename(self.path)


class Housekeeping:
    """One round in one directory.

    :param used: names of images that are in use
    :param forget: takes an image's stamp away so that nobody who looks for it finds half of it; returns
        False if it was used meanwhile
    """

    def __init__(
        self, directory: str, used: Set[str], soundness: Soundness, forget: Callable[[str, float], bool]
    ) -> None:
        self._directory = directory
        self._used = used
        self._soundness = soundness
        self._forget = forget
        self._report = Report()

    def run(self) -> Report:
        """Do it.

        :raises Cancelled: when the operation is cancelled; :raises Timeout: when its deadline passes
        """
        if not os.path.isdir(self._directory):
            return self._report
        sweep(self._directory)
        self._clear_leftovers()
        images = [self._image(path) for path in stamped(self._directory)]
        sound = [image for image in images if self._is_sound(image)]
        kept = self._drop_old(sound)
        kept = self._drop_too_many(kept)
        self._report.kept = len(kept)
        self._report.size_bytes = sum(image.bytes for image in kept)
        return self._report

    def _image(self, path: str) -> _Image:
        used = os.path.basename(path) in self._used
        return _Image(path, used, _bytes_of(path), clock.unix() - stamp.last_used_s(path))

    def _is_sound(self, image: _Image) -> bool:
        """Set an image aside that is not what it was. One that guests use stays where they expect it."""
        steps.current().check()
        if not os.path.exists(image.path):
            return False  # about to come, or a leftover
        known = stamp.read(image.path)
        if known is not None and not (
            self._soundness.doubts(image.path) and not self._soundness.prove(image.path, known)
        ):
            return True
        self._report.damaged.append(image.name)
        if not image.used and self._forget(image.path, 0.0):
            with contextlib.suppress(FileNotFoundError):
                posix.rename(image.path, image.path + DAMAGED)
        return False

    def _drop_old(self, images: list[_Image]) -> list[_Image]:
        age = max(CONF.image_cache.unused_minimum_age, IN_FLIGHT_S)
        return [image for image in images if image.used or image.age_s < age or not self._drop(image, age)]

    def _drop_too_many(self, images: list[_Image]) -> list[_Image]:
        most = CONF.image_cache.max_size_gb * GIB
        size = sum(image.bytes for image in images)
        gone = set()
        for image in sorted(images, key=lambda image: -image.age_s):
            if not most or size <= most:
                break
            if not image.used and image.age_s >= IN_FLIGHT_S and self._drop(image, IN_FLIGHT_S):
                gone.add(image.path)
                size -= image.bytes
        return [image for image in images if image.path not in gone]

    def _drop(self, image: _Image, age_s: float) -> bool:
        steps.current().check()
        if not self._forget(image.path, age_s):
            return False
        failpoints.hit("images.forgotten")
        with contextlib.suppress(FileNotFoundError):
            posix.unlink(image.path)
        self._report.removed.append(image.name)
        self._report.freed_bytes += image.bytes
        return True

    def _clear_leftovers(self) -> None:
        """Remove files without a stamp, and damaged ones that nobody has asked for for long."""
        names = set(posix.listdir(self._directory))
        for name in sorted(names):
            path = f"{self._directory}/{name}"
            if not self._is_left(name, names) or _age_s(path) < self._age_of_leftovers(name):
                continue
            size = _bytes_of(path)
            with contextlib.suppress(OSError):
                posix.unlink(path)
                self._report.freed_bytes += size

    def _is_left(self, name: str, names: Set[str]) -> bool:
        """Whether ``name`` is a file of ours that is of no use; what is named otherwise is not ours."""
        found = _OURS.fullmatch(name)
        if found is None or found[1] in self._used:
            return False
        if found[2] == stamp.SUFFIX:
            return found[1] not in names
        return found[2] is not None or f"{name}{stamp.SUFFIX}" not in names

    @staticmethod
    def _age_of_leftovers(name: str) -> float:
        if name.endswith(DAMAGED):
            return max(float(CONF.image_cache.unused_minimum_age), IN_FLIGHT_S)
        return IN_FLIGHT_S


def _bytes_of(path: str) -> int:
    try:
        return posix.stat(path).st_blocks * 512
    except OSError:
        return 0


def _age_s(path: str) -> float:
    """Return for how long nothing happened to a file; nothing, if it is gone."""
    try:
        return clock.unix() - posix.lstat(path).st_ctime
    except OSError:
        return 0.0
