# SPDX-License-Identifier: Apache-2.0
"""Room on the state disk that nobody else can take: a file without content beside the state file.

When the disk is full it is given up, so that what has begun can be written to its end. When there is room
again it is taken again; until then nothing new is taken on. Both happen in the writer's thread.
"""

import contextlib
import logging
import os
import pathlib

from compute_agent.store import faults

LOG = logging.getLogger(__name__)

RESERVE_FILE = "reserve"
MIB = 2**20


class Reserve:
    """The file, and whether its room is held.

    :param path: of the file
    :param size: in bytes; 0 for none, which is always held
    """

    def __init__(self, path: pathlib.Path, size: int) -> None:
        self._path = path
        self._size = size
        self.held = size == 0 or self._is_there()

    def give_up(self) -> bool:
        """Give its room to whoever writes next; return whether there was any."""
        if not self.held or self._size == 0:
            return False
        self.held = False
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
            return True
        return False

    def take_again(self) -> bool:
        """Take the room if it is not held and there is twice as much; return whether it was taken now.

        Twice: else the disk would be full at once. A file system that can't keep room has none kept for it,
        and counts as one that does: else the agent would wait for ever.
        """
        if self.held:
            return False
        try:
            disk = os.statvfs(self._path.parent)
            if disk.f_bavail * disk.f_frsize >= 2 * self._size:
                self._allocate()
                self.held = True
        except OSError as error:
            self.held = not faults.is_passing(error)
            if self.held:
                LOG.warning("no reserve can be kept in %s: %s", self._path, error)
        return self.held

    def _allocate(self) -> None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, self._size)
            os.posix_fallocate(descriptor, 0, self._size)
        except OSError:
            self._path.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)

    def _is_there(self) -> bool:
        """Whether it has its room from an earlier run."""
        try:
            found = self._path.stat()
        except OSError:
            return False
        return found.st_size == self._size and found.st_blocks * 512 >= self._size
