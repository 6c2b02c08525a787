# SPDX-License-Identifier: Apache-2.0
"""The rig's servers of volumes serve, go away, come back larger, and leave nothing."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import pytest

from tests.rig.iscsiserver import IscsiServer
from tests.rig.nbdserver import NbdServer

MIB = 2**20


def nbd_url(server: NbdServer) -> str:
    if server.socket is not None:
        return f"nbd+unix:///{server.export}?socket={server.socket}"
    return f"nbd://127.0.0.1:{server.port}/{server.export}"


def iscsi_url(server: IscsiServer) -> str:
    login = f"{server.username}%{server.password}@" if server.password else ""
    return f"iscsi://{login}127.0.0.1:{server.port}/{server.iqn}/1"


def size(url: str) -> int | None:
    """The size that a client sees; None if it sees none."""
    command = ["qemu-img", "info", "--output=json", url]
    told = subprocess.run(command, capture_output=True, timeout=60)
    return None if told.returncode else int(json.loads(told.stdout)["virtual-size"])


@pytest.mark.parametrize(
    ("make", "url"),
    [
        (NbdServer, nbd_url),
        (lambda: NbdServer(unix=True), nbd_url),
        (lambda: IscsiServer(password="a password of twelve"), iscsi_url),
    ],
    ids=["nbd", "nbd on a socket", "iscsi"],
)
def test_a_volume_is_served_grows_and_goes(
    make: Callable[[], NbdServer | IscsiServer], url: Callable[..., str]
) -> None:
    server = make()
    with server:
        assert size(url(server)) == 16 * MIB
        server.extend(32 * MIB)
        assert size(url(server)) == 32 * MIB
        assert len(server.contents()) == 32 * MIB
    assert not server.scratch.exists()
    assert size(url(server)) is None


def test_who_does_not_know_the_password_is_not_let_in() -> None:
    with IscsiServer(password="a password of twelve") as server:
        assert size(iscsi_url(server).replace("twelve", "eleven")) is None
        assert size(iscsi_url(server)) == 16 * MIB
