# SPDX-License-Identifier: Apache-2.0
"""Whether cached images are still what they were, after a stop that nobody saw coming.

While an agent uses a cache, a mark lies in it; a clean stop takes it away. An agent that
finds its own mark was killed, or its host was: each image is then hashed once before it is
used again. The mark goes when all are known to be sound. Everything here runs in native
threads.
"""

import _thread
import contextlib
import hashlib
import posix

from compute_agent import steps
from compute_agent.virt.images import stamp
from compute_agent.virt.images.part import sync_directory
from compute_agent.virt.images.stamp import Stamp

MARK = ".in-use-by-"
_CHUNK_BYTES = 4 * 2**20


class Soundness:
    """What one agent knows of the soundness of one cache.

    :param directory: of the cache
    :param host: the agent's name: several may share a directory
    """

    def __init__(self, directory: str, host: str) -> None:
        self._directory = directory
        self._mark = f"{directory}/{MARK}{host.replace('/', '_')}"
        self._lock = _thread.RLock()  # of the kind that eventlet leaves alone: native threads share it
        self._begun = False
        self._doubted = False
        self._sound: set[str] = set()

    def begin(self) -> None:
        """Note that the cache is used from now on. May be repeated; without a directory it means nothing."""
        if self._begun:
            return
        with self._lock:
            if self._begun:
                return
            try:
                flags = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC
                posix.close(posix.open(self._mark, flags, 0o644))
                sync_directory(self._directory)
            except FileExistsError:
                self._doubted = True
            except OSError:
                return  # no directory, or none that can be written: an image that can't be had tells more
            self._begun = True

    def doubts(self, path: str) -> bool:
        """Return whether the image at ``path`` has to be hashed before it is used."""
        return self._doubted and path not in self._sound

    def trust(self, path: str) -> None:
        """Note that the image at ``path`` has just been made, or found to be sound."""
        self._sound.add(path)

    def prove(self, path: str, known: Stamp) -> bool:
        """Hash the image at ``path``; return whether it is what ``known`` says.

        :raises Cancelled: when the operation is cancelled; :raises Timeout: when its deadline passes
        """
        sound = known.contents_sha256 is not None and digest(path) == known.contents_sha256
        if sound:
            self.trust(path)
        return sound

    def end(self) -> None:
        """Take the mark away, unless there are images that nobody has looked at since it was found."""
        if not self._begun:
            return
        self._begun = False
        if self._doubted and any(self.doubts(path) for path in stamped(self._directory)):
            return
        with contextlib.suppress(OSError):
            posix.unlink(self._mark)


def stamped(directory: str) -> list[str]:
    """Return the paths of the images in ``directory`` that have a stamp, good or bad."""
    try:
        names = sorted(posix.listdir(directory))
    except FileNotFoundError:
        return []
    return [f"{directory}/{name.removesuffix(stamp.SUFFIX)}" for name in names if name.endswith(stamp.SUFFIX)]


def digest(path: str) -> str | None:
    """Return the SHA-256 of a file; None if it can't be read. Raises as :meth:`Soundness.prove`."""
    work, found, at = steps.current(), hashlib.sha256(), 0
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW)
    except OSError:
        return None
    try:
        while chunk := posix.pread(fd, _CHUNK_BYTES, at):
            found.update(chunk)
            at += len(chunk)
            work.check()
        return found.hexdigest()
    except OSError:
        return None
    finally:
        posix.close(fd)
