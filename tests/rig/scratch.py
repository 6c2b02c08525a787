# SPDX-License-Identifier: Apache-2.0
"""Scratch directories with short names.

Short, because a Unix socket's path must fit in 107 bytes, and libvirt puts sockets several levels below.
They lie in /tmp (or where RIG_SCRATCH points) and every parent can be traversed, because some parts run
as another user.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import tempfile

#: Set in the environment to keep what the rig leaves in its scratch directories.
KEEP = "RIG_KEEP"


def root() -> pathlib.Path:
    """The directory below which scratch directories are made."""
    return pathlib.Path(os.environ.get("RIG_SCRATCH", "/tmp"))


def make(prefix: str = "ca-", within: pathlib.Path | None = None) -> pathlib.Path:
    """A new scratch directory that everyone may traverse; `within` another one, with which it goes."""
    path = pathlib.Path(tempfile.mkdtemp(prefix=prefix, dir=within or root()))
    path.chmod(0o755)
    return path


def keep() -> bool:
    """Whether scratch directories are to stay for inspection."""
    return bool(os.environ.get(KEEP))


def remove(path: pathlib.Path) -> None:
    """Delete a scratch directory unless it is to be kept. Nothing of it being there is fine."""
    if not keep():
        shutil.rmtree(path, ignore_errors=True)
