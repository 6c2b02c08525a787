# SPDX-License-Identifier: Apache-2.0
"""The two ends of a transfer on one machine: directories of files, and the transport between them."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import sys

from compute_agent.conf import CONF
from compute_agent.virt.libvirt.coldmigration import export, processes, transit
from compute_agent.virt.libvirt.coldmigration.sending import Pace, Sending, Way

MIB = 2**20
ADDRESS = "127.0.0.1"


class Ends:
    """Files of a source, and where they come to.

    :ivar reported: the progress, as it was told
    """

    def __init__(self, scratch: pathlib.Path, incarnation: str = "first") -> None:
        self.scratch = scratch
        self.here, self.there = scratch / "here", scratch / "there"
        self.outgoing, self.incoming = scratch / "transfer, out", scratch / "transfer, in"
        for directory in (self.here, self.there):
            directory.mkdir(exist_ok=True)
        self.incarnation = incarnation
        self.port = 0
        self.reported: list[tuple[int, int]] = []

    def file(self, name: str, size: int, *data: tuple[int, int]) -> pathlib.Path:
        """A file of the source with random data at (offset, length), holes elsewhere; and its place there."""
        path = self.here / name
        with path.open("wb") as file:
            for offset, length in data:
                file.seek(offset)
                file.write(os.urandom(length))
            file.truncate(size)
        with self.part(name).open("wb") as file:
            file.truncate(-(-size // 512) * 512 + MIB)
        return path

    def part(self, name: str) -> pathlib.Path:
        return self.there / f"{name}.part"

    def open(self, secret: str | None = None) -> None:
        """Let the destination take in what it has a place for."""
        secret = secret or transit.new_secret()
        for directory in (self.outgoing, self.incoming):
            transit.write_secret(str(directory), secret)
        files = {path.name.removesuffix(".part"): str(path) for path in sorted(self.there.iterdir())}
        self.port = export.start(str(self.incoming), ADDRESS, files, self.port or None)

    def way(self) -> Way:
        return Way(
            directory=str(self.outgoing), address=ADDRESS, port=self.port, incarnation=self.incarnation
        )

    def send(self, *names: str, bandwidth: int = 0) -> None:
        total = sum((self.here / name).stat().st_blocks * 512 for name in names)
        pace = Pace(total, bandwidth, lambda done, of: self.reported.append((done, of)))
        one = Sending(self.way(), pace)
        for name in names:
            one.send(name, str(self.here / name))

    def same(self, name: str) -> bool:
        """Whether what came is what was sent, as far as that goes."""
        sent = (self.here / name).read_bytes()
        came = self.part(name).read_bytes()
        return digest(sent) == digest(came[: len(sent)]) and not any(came[len(sent) :])

    def programs(self) -> list[int]:
        """What serves the transfer at either end."""
        return processes.of(str(self.outgoing)) + processes.of(str(self.incoming))

    def close(self) -> None:
        for directory in (self.outgoing, self.incoming):
            transit.remove(str(directory))


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def configure() -> None:
    """The configuration of both ends."""
    CONF([], project="compute-agent", default_config_files=[], default_config_dirs=[])


if __name__ == "__main__":
    # The source as a process of its own, to be killed: SCRATCH PORT NAMES CHUNK BANDWIDTH
    configure()
    CONF.set_override("cold_migration_chunk", int(sys.argv[4]), "libvirt")
    ends = Ends(pathlib.Path(sys.argv[1]))
    ends.port = int(sys.argv[2])
    try:
        ends.send(*json.loads(sys.argv[3]), bandwidth=int(sys.argv[5]))
    except Exception as error:
        print(type(error).__name__, error)
        sys.exit(1)
