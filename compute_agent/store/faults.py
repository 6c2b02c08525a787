# SPDX-License-Identifier: Apache-2.0
"""What an error of SQLite or of the disk means: damage, trouble that passes, or neither.

Damage is what the file itself is to blame for: only then may another file take its place. What passes is
waited for: room, a disk that is read-only or fails for a while, somebody else's lock.
"""

import errno
import sqlite3

from compute_agent.model import errors

PASSING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG})
"""What a disk says that may be mended without touching the agent."""
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
PASSING_CODES = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_BUSY,
        # The file itself was opened before: it is its log that can't be made, most likely for want of room.
        sqlite3.SQLITE_CANTOPEN,
    }
)


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether the file is at fault, and not what is around it: room, rights, another process."""
    code = getattr(error, "sqlite_errorcode", None)
    return code == sqlite3.SQLITE_IOERR_SHORT_READ or not isinstance(error, sqlite3.OperationalError)


def is_passing(error: Exception) -> bool:
    """Whether what is around the file is at fault, and may be mended."""
    if isinstance(error, errors.DiskFull):
        return True
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in PASSING_CODES
    return isinstance(error, OSError) and error.errno in PASSING


def typed(error: Exception, retry_after_s: float) -> errors.ComputeError:
    """Return what a commit that failed by ``error`` ends with."""
    if isinstance(error, errors.ComputeError):
        return error
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    message = f"the state file can't be written: {error}"
    if getattr(error, "errno", None) in FULL or code in (
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_READONLY,
    ):
        return errors.DiskFull(message, retry_after_s=retry_after_s)
    return errors.Internal(message)
