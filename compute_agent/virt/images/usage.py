# SPDX-License-Identifier: Apache-2.0
"""Which cached images are in use: those that a disk stands on. In native threads.

Only the host's own disks are read, and only their headers. What can't be read may stand on
anything, so nothing is dropped then: unknown is not gone.
"""

import os
import posix
import re
import stat
import struct
from collections.abc import Iterable, Iterator

from compute_agent.model import errors
from compute_agent.virt.images import qcow2

NAME = re.compile(r"(?<![0-9a-f])[0-9a-f]{40}(?![0-9a-f])")
"""What an image in the cache is called."""
_DEPTH = 4


def names_in(texts: Iterable[str]) -> set[str]:
    """Return the names of images that ``texts`` hold: paths, or a domain's XML."""
    return {name for text in texts for name in NAME.findall(text)}


def backing_names(instances_path: str, cache: str) -> set[str]:
    """Return the names of the images that the disks below ``instances_path`` stand on.

    :param cache: the directory of the cache, which holds no disks
    :raises HypervisorError: if a disk or a directory can't be read
    """
    try:
        return names_in(map(backing_of, _files(instances_path, os.path.realpath(cache), _DEPTH)))
    except OSError as error:
        raise errors.HypervisorError(f"what {instances_path} holds can't be told: {error}") from None


def backing_of(path: str) -> str:
    """Return what a qcow2 file says that it stands on; nothing for any other file, or one that is gone."""
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW | posix.O_NONBLOCK)
    except FileNotFoundError:
        return ""
    try:
        head = posix.pread(fd, 20, 0)
        if len(head) < 20 or not head.startswith(qcow2.MAGIC):
            return ""
        _, _, offset, size = struct.unpack(">4sIQI", head)
        return os.fsdecode(posix.pread(fd, min(size, qcow2.NAME_BYTES), offset)) if offset else ""
    finally:
        posix.close(fd)


def _files(directory: str, besides: str, depth: int) -> Iterator[str]:
    for name in _listed(directory):
        path = f"{directory}/{name}"
        try:
            mode = posix.lstat(path).st_mode
        except FileNotFoundError:
            continue
        if stat.S_ISREG(mode):
            yield path
        elif stat.S_ISDIR(mode) and depth > 0 and os.path.realpath(path) != besides:
            yield from _files(path, besides, depth - 1)


def _listed(directory: str) -> list[str]:
    try:
        return posix.listdir(directory)
    except FileNotFoundError:
        return []
