# SPDX-License-Identifier: Apache-2.0
"""How fast a disk goes over in a cold migration, beside QEMU's own tool on the same way."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator

from compute_agent.virt.libvirt.coldmigration import transit
from tests.bench.figures import Result
from tests.bench.parts import Parts
from tests.rig import scratch, transferends
from tests.rig.process import tool
from tests.rig.transferends import ADDRESS, MIB, Ends

_DATA_MIB = 512
_DISK = "disk"


def throughput(parts: Parts, quick: bool) -> list[Result]:
    """A disk full of data, from file to file on one machine."""
    result = Result(
        "transport",
        f"cold migration's way, {_DATA_MIB} MiB",
        "s",
        compares="sent, flushed and read back; against `qemu-img convert` to the same server, not read back",
    )
    transferends.configure()
    for _ in range(3 if quick else 5):
        for send, figures in ((_ours, result.ours), (_floor, result.floor)):
            with _ends() as ends:
                began = time.monotonic()
                send(ends)
                figures.append(time.monotonic() - began)
                assert ends.same(_DISK)
    rate = _DATA_MIB / sorted(result.ours)[len(result.ours) // 2]
    result.notes.append(f"{rate:.0f} MiB/s")
    return [result]


@contextlib.contextmanager
def _ends() -> Iterator[Ends]:
    directory = scratch.make()
    ends = Ends(directory)
    try:
        ends.file(_DISK, _DATA_MIB * MIB, (0, _DATA_MIB * MIB))
        ends.open()
        yield ends
    finally:
        ends.close()
        scratch.remove(directory)


def _ours(ends: Ends) -> None:
    ends.send(_DISK)


def _floor(ends: Ends) -> None:
    directory = str(ends.outgoing).replace(",", ",,")
    secret = f"tls-creds-psk,id=tls,dir={directory},endpoint=client,username={transit.USER}"
    way = f"server.type=inet,server.host={ADDRESS},server.port={ends.port},export={_DISK},tls-creds=tls"
    command = [tool("qemu-img", "qemu-utils"), "convert", "-n", "-f", "raw", "--object", secret]
    command += ["--target-image-opts", str(ends.here / _DISK), f"driver=nbd,{way}"]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
