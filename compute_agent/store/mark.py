# SPDX-License-Identifier: Apache-2.0
"""How far the state file has come, noted beside it, so that an older copy of it is noticed.

Two numbers: which run of an agent on this directory it is, and the newest event. The note follows the
state file and never runs ahead of it: the run is written behind the commit that begins it, the event at most
a second after the last one. So a state file that is behind the note has been put back, whatever crash or loss
of power came before. One that can't be read says nothing. See docs/decisions/017.
"""

import contextlib
import dataclasses
import json
import logging
import os
import pathlib

LOG = logging.getLogger(__name__)

MARK_FILE = "state.mark"


@dataclasses.dataclass(frozen=True, order=True)
class Progress:
    """How far a state file is. Later is greater.

    :param run: of an agent on this directory, from 1 on; 0 for a file of a release that did not count
    :param seq: of the newest event
    """

    run: int = 0
    seq: int = 0


class Mark:
    """The note.

    :param path: of its file
    """

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._noted: Progress | None = None

    def read(self) -> Progress:
        """Return what is noted; zeros if nothing is, or it can't be read."""
        try:
            values = json.loads(self._path.read_text())
            return Progress(int(values["run"]), int(values["seq"]))
        except FileNotFoundError:
            return Progress()
        except (OSError, ValueError, KeyError, TypeError) as error:
            LOG.warning("the note %s can't be read: %r", self._path, error)
            return Progress()

    def write(self, progress: Progress, *, sync: bool = False) -> None:
        """Note ``progress``. Where the disk does not take it, the older note stays, and does no harm.

        :param sync: outlive a loss of power too
        """
        if progress == self._noted and not sync:
            return
        temporary = self._path.with_name(self._path.name + ".new")
        text = json.dumps(dataclasses.asdict(progress)) + "\n"
        try:
            with open(temporary, "w", opener=_private) as file:
                file.write(text)
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
            temporary.rename(self._path)
            self._noted = progress
        except OSError as error:
            LOG.debug("the note %s stays behind: %s", self._path, error)
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
