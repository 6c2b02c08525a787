# SPDX-License-Identifier: Apache-2.0
"""The source's side of the network: a program of QEMU's that does the encryption, for one file at a time.

It connects to the destination before it says that it is ready, and serves one client on a socket of this
host; when that goes away, and be it because the agent was killed, it ends by itself.
"""

import _socket
import contextlib
import os
import posix
from collections.abc import Iterator

from compute_agent import concurrency
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.virt.images import process
from compute_agent.virt.libvirt.coldmigration import nbd, processes
from compute_agent.virt.libvirt.coldmigration.processes import escaped
from compute_agent.virt.libvirt.coldmigration.transit import USER

POOL = concurrency.NativePool("libvirt-transfers", 32)
"""For the calls that wait for the other host."""
_NAME = "relay"


@contextlib.contextmanager
def connected(directory: str, to: str, port: int, export: str) -> Iterator[nbd.Client]:
    """Give a client of an export of another host. On the hub.

    :param directory: of the transfer, with its secret
    :raises DestinationUnreachable: if nobody answers there
    :raises MigrationFailed: if who answers does not know the secret, or has no such export
    """
    process.POOL.call(processes.end, directory)  # of an attempt that was interrupted
    fd = process.POOL.call(_open, directory)
    try:
        # The path of a socket is short: that of a directory may not be.
        path = f"/proc/{os.getpid()}/fd/{fd}/{_NAME}"
        client = _connect(directory, path, to, port, export)
        try:
            yield client
        finally:
            client.close()
    finally:
        process.POOL.call(_close, directory, fd)


def _connect(directory: str, path: str, to: str, port: int, export: str) -> nbd.Client:
    limit = float(CONF.libvirt.cold_migration_stall_timeout)
    try:
        completed = process.run(_command(directory, path, to, port, export), timeout_s=limit)
    except errors.Timeout:
        raise errors.DestinationUnreachable(f"{to} does not answer at port {port}") from None
    if completed.returncode == 0:
        try:
            return POOL.call(nbd.Client, path, limit)
        except nbd.Broken as error:
            raise errors.DestinationUnreachable(
                f"the connection to {to}, port {port}, was lost", evidence=str(error)
            ) from None
    if not answers(to, port):
        raise errors.DestinationUnreachable(
            f"{to} does not answer at port {port}", evidence=completed.stderr,
            hint="the destination's [libvirt] cold_migration_ports have to be open for this host",
        )  # fmt: skip
    raise errors.MigrationFailed(
        f"{to} does not take the disks at port {port}: another secret, or another transfer",
        evidence=completed.stderr,
    )


def _command(directory: str, path: str, to: str, port: int, export: str) -> list[str]:
    secret = f"tls-creds-psk,id=tls,dir={escaped(directory)},endpoint=client,username={USER}"
    image = f"driver=nbd,server.type=inet,server.host={to},server.port={port},export={export},tls-creds=tls"
    return ["qemu-nbd", "--fork", f"--socket={path}", "--object", secret, "--image-opts", image]


def answers(to: str, port: int) -> bool:
    """Return whether somebody takes connections there. On the hub."""
    return POOL.call(_answers, to, port, float(CONF.libvirt.cold_migration_stall_timeout))


def _answers(to: str, port: int, limit: float) -> bool:
    """In a native thread."""
    for family, kind, protocol, _, place in _places(to, port):
        with contextlib.suppress(OSError):
            probe = _socket.socket(family, kind | _socket.SOCK_CLOEXEC, protocol)
            try:
                probe.settimeout(limit)
                probe.connect(place)
                return True
            finally:
                probe.close()
    return False


def _places(to: str, port: int) -> list[tuple[int, int, int, str, tuple[object, ...]]]:
    with contextlib.suppress(OSError):
        return list(_socket.getaddrinfo(to, str(port), 0, _socket.SOCK_STREAM))  # type: ignore[arg-type]
    return []


def _open(directory: str) -> int:
    fd = posix.open(directory, posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)
    with contextlib.suppress(FileNotFoundError):
        posix.unlink(_NAME, dir_fd=fd)
    return fd


def _close(directory: str, fd: int) -> None:
    """In a native thread. A program that hangs on the network would not notice that nobody is left."""
    processes.end(directory)
    with contextlib.suppress(FileNotFoundError):
        posix.unlink(_NAME, dir_fd=fd)
    posix.close(fd)
