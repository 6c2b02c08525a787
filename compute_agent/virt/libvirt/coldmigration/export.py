# SPDX-License-Identifier: Apache-2.0
"""The destination's side of the transport: one program of QEMU's that takes in the files of one guest.

It lives on when the agent ends, and whoever comes after finds it (`processes`); if it is gone itself, it is
started again over the same files, at the same port if that is free. It never reads the files as disks: what
a guest has written into the header of its disk is not looked at.
"""

import _socket
import ipaddress
import random
from collections.abc import Mapping

from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.virt.images import process
from compute_agent.virt.libvirt.coldmigration import processes
from compute_agent.virt.libvirt.coldmigration.processes import escaped

_ATTEMPTS = 5
_START_S = 60.0
_CONNECTIONS = 8


def address() -> str:
    """Return where other hosts reach the exports of this one."""
    options = CONF.libvirt
    return str(options.cold_migration_inbound_addr or options.live_migration_inbound_addr or CONF.my_ip)


def is_up(directory: str) -> bool:
    """Return whether the files are being served. In a native thread."""
    return bool(processes.of(directory))


def start(directory: str, at: str, files: Mapping[str, str], port: int | None = None) -> int:
    """Serve files; return the port. On the hub.

    :param directory: of the transfer, with its secret
    :param files: the names of the exports, and the files' paths
    :param port: to be taken if it is free
    :raises InsufficientResources: if no port of ``[libvirt] cold_migration_ports`` is free
    :raises HypervisorError: if QEMU's program can't be started
    """
    problem = "no port is free"
    for number in process.POOL.call(_free_ports, at, port):
        completed = process.run(_command(directory, at, number, files), timeout_s=_START_S)
        if completed.returncode == 0:
            return number
        process.POOL.call(processes.end, directory)
        problem = completed.stderr
        if process.POOL.call(_is_free, at, number):
            raise errors.HypervisorError("the disks can't be taken in", evidence=problem)
    raise errors.InsufficientResources(
        "no port is free to take in disks", hint="[libvirt] cold_migration_ports", evidence=problem
    )


def _command(directory: str, at: str, port: int, files: Mapping[str, str]) -> list[str]:
    made = ["qemu-storage-daemon", "--daemonize"]
    made += ["--object", f"tls-creds-psk,id=tls,dir={escaped(directory)},endpoint=server"]
    made += [
        "--nbd-server",
        f"addr.type=inet,addr.host={at},addr.port={port},tls-creds=tls,max-connections={_CONNECTIONS}",
    ]
    for number, (name, path) in enumerate(files.items()):
        made += ["--blockdev", f"driver=file,node-name=file{number},discard=unmap,filename={escaped(path)}"]
        made += ["--export", f"type=nbd,id=export{number},node-name=file{number},name={name},writable=on"]
    return made


def _free_ports(at: str, wanted: int | None) -> list[int]:
    """Return a few ports of the range that nobody has. In a native thread."""
    first, last = map(int, CONF.libvirt.cold_migration_ports.split("-"))
    ports = random.sample(range(first, last + 1), max(0, last + 1 - first))
    found = [wanted] if wanted and first <= wanted <= last and _is_free(at, wanted) else []
    for port in ports:
        if len(found) < _ATTEMPTS and port != wanted and _is_free(at, port):
            found.append(port)
    return found


def _is_free(at: str, port: int) -> bool:
    """In a native thread."""
    family = _socket.AF_INET6 if _is_ipv6(at) else _socket.AF_INET
    with_socket = _socket.socket(family, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        with_socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        with_socket.bind((at, port))
    except OSError:
        return False
    finally:
        with_socket.close()
    return True


def _is_ipv6(at: str) -> bool:
    try:
        return ipaddress.ip_address(at).version == 6
    except ValueError:
        return False
