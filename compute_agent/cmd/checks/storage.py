# SPDX-License-Identifier: Apache-2.0
"""The agent's directories: can they be written, is there room, does the file system keep what it is given?"""

import contextlib
import fcntl
import os
import pathlib
import shutil
import sqlite3
import tempfile
from typing import Any

from compute_agent.cmd.checks.finding import Findings, error, good, warning

STATE, INSTANCES, IDENTITY = "state_path", "instances_path", "host"
MIB, GIB = 2**20, 2**30
COMFORT = 10
"""How many times the reserve should be free."""
INSTANCES_ROOM = 5 * GIB

FORGETFUL = frozenset({"tmpfs", "ramfs"})
REMOTE = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs"})
MOUNTS = pathlib.Path("/proc/self/mountinfo")


def check_state(conf: Any) -> Findings:
    """The directory of the state file."""
    path = pathlib.Path(conf.state_path)
    yield from _writable(STATE, path)
    there = nearest(path)
    yield from _room(there, conf.health.state_reserve_mb * MIB)
    kind = file_system(there)
    if kind in FORGETFUL:
        yield warning(STATE, f"{path} is on {kind}: a restart of the host loses it", "put it on a disk")
    elif kind in REMOTE or kind.startswith("fuse"):
        yield warning(
            STATE, f"{path} is on {kind}: its locks and its fsync may not hold", "put it on a local disk"
        )


def check_instances(conf: Any) -> Findings:
    """The directory of the instances' disks."""
    path = pathlib.Path(conf.instances_path)
    yield from _writable(INSTANCES, path)
    free = shutil.disk_usage(nearest(path)).free
    if free < INSTANCES_ROOM:
        yield warning(INSTANCES, f"{free // MIB} MiB are free below {path}", "make room, or use another disk")


def check_identity(conf: Any) -> Findings:
    """Whose state file it is."""
    path = pathlib.Path(conf.state_path)
    host, version, contract = _recorded(path / "state.db")
    if host not in (None, conf.host_name):
        yield error(
            IDENTITY,
            f"the state below {path} is host {host}'s, and this one is called {conf.host_name}",
            f"set [DEFAULT] host = {host}, or give this agent another state_path",
        )
    else:
        known = "its state file says so, too" if host else "there is no state file yet"
        yield good(IDENTITY, f"called {conf.host_name}; {known}")
    if not _may_work_on(version, contract):
        yield error(
            IDENTITY, f"the state file was written by a later release ({version})", "install that one"
        )
    if _in_use(path / "lock"):
        yield good(IDENTITY, "an agent runs on this state directory")


def nearest(path: pathlib.Path) -> pathlib.Path:
    """Return ``path``, or the closest directory above it that is there."""
    return next(parent for parent in (path, *path.parents) if parent.is_dir())


def file_system(path: pathlib.Path) -> str:
    """Return the type of the file system that ``path`` is on, as the kernel calls it."""
    found = path.resolve()
    best = ("", "")
    with contextlib.suppress(OSError):
        for line in MOUNTS.read_text().splitlines():
            before, _, after = line.partition(" - ")
            mounted = before.split()[4]
            if found.is_relative_to(mounted) and len(mounted) >= len(best[0]):
                best = (mounted, after.split()[0])
    return best[1]


def _writable(about: str, path: pathlib.Path) -> Findings:
    if not path.is_dir():
        there = nearest(path)
        if os.access(there, os.W_OK | os.X_OK):
            yield good(about, f"{path} is not there yet, and can be made")
        else:
            yield error(
                about, f"{path} is not there, and can't be made in {there}", f"install -d -m 0711 {path}"
            )
        return
    try:
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as failure:
        yield error(about, f"{path} can't be written: {failure.strerror}", "give it to the agent's user")
    else:
        yield good(about, f"{path} can be written")


def _room(path: pathlib.Path, reserve: int) -> Findings:
    free = shutil.disk_usage(path).free
    if free < reserve:
        yield error(
            STATE, f"{free // MIB} MiB are free, and the agent stops below {reserve // MIB}", "make room"
        )
    elif free < COMFORT * reserve:
        yield warning(STATE, f"only {free // MIB} MiB are free", "make room: the journal and the events grow")


def _recorded(path: pathlib.Path) -> tuple[str | None, int, int]:
    """Return the host that a state file is for, the version of its tables, and the oldest that will do."""
    if not path.exists():
        return None, 0, 0
    with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        row = connection.execute("SELECT value FROM meta WHERE key = 'host'").fetchone()
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        contract = connection.execute("SELECT value FROM meta WHERE key = 'contract'").fetchone()
    return (row[0] if row else None), int(version), int(contract[0] if contract else version)


def _may_work_on(version: int, contract: int) -> bool:
    from compute_agent.store.schema import may_work_on

    return may_work_on(version, contract)


def _in_use(lock: pathlib.Path) -> bool:
    """Return whether somebody holds the lock of a state directory."""
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
