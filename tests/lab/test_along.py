# SPDX-License-Identifier: Apache-2.0
"""What goes along with a guest that is migrated live, and what the destination has of its own."""

from __future__ import annotations

import pathlib
import subprocess
import uuid as uuids
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.lab.conftest import Pair
from tests.lab.trial import TCP
from tests.rig.lab import Lab
from tests.rig.labguest import MEMORY_MB
from tests.rig.linuxguest import console
from tests.rig.nbdserver import NbdServer

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

_PHRASE = "pass-phrase-of-luks"
_OTHER_BRIDGE = "br-elsewhere"


@pytest.fixture
def volume(lab: Lab) -> Iterator[NbdServer]:
    """An encrypted volume that both hosts reach."""
    with NbdServer(address=lab.switch.address) as server:
        server.stop()
        _encrypt(server.file)
        yield server.start()


def _encrypt(file: pathlib.Path) -> None:
    key = file.with_name("key")
    key.write_text(_PHRASE)
    command = ["qemu-img", "create", "-q", "-f", "luks", "--object", f"secret,id=key,file={key}"]
    command += ["-o", "key-secret=key,iter-time=10", str(file), str(8 * 2**20)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    key.unlink()


@pytest.fixture
def bridge(lab: Lab) -> Iterator[str]:
    """A bridge of another name, on the second host only."""
    host = lab.hosts[1]
    host.tell("ip", *f"link add {_OTHER_BRIDGE} type bridge forward_delay 0".split())
    host.tell("ip", "link", "set", _OTHER_BRIDGE, "up")
    yield _OTHER_BRIDGE
    host.tell("ip", "link", "delete", _OTHER_BRIDGE)


def _device(server: NbdServer, volume_id: str, host: str) -> dict[str, Any]:
    """The volume as one host finds it."""
    info = server.connection_info
    info["data"] |= {"host": host, "volume_id": volume_id}
    return {
        "source_type": "volume",
        "volume_id": volume_id,
        "encryption": {"provider": "luks", "passphrase": _PHRASE},
        "connection_info": info,
    }


def test_config_drive_console_and_volume_go_along_to_other_names_of_networks_and_servers(
    pair: Callable[..., Pair], volume: NbdServer, bridge: str
) -> None:
    both = pair(shared=False, sections=TCP)
    one, other = both.hosts
    volume_id = str(uuids.uuid4())
    here, there = (_device(volume, volume_id, host) for host in (volume.address, "broker"))
    guest = both.spawn(
        0,
        config_drive=True,
        block_device_mapping=[here],
        flavor={"vcpus": 1, "memory_mb": MEMORY_MB, "root_gb": 0},
    )
    drive = one.outside(guest.directory / "disk.config").read_bytes()
    vif = guest.instance["network_info"][0] | {"bridge": bridge}
    asked = both.senders[0].cast(
        "migrate",
        instance_uuid=guest.uuid,
        dest=both.agents[1].host,
        mode="live",
        dest_network_info=[vif],
        dest_block_device_mapping=[there],
    )
    both.receiver.succeeded(asked, 320)
    guest.wait_ticks(5)
    assert guest.running_on() == [other] == guest.with_qemu()
    assert console.troubles(guest.console()) == []
    assert other.outside(guest.directory / "disk.config").read_bytes() == drive
    assert not one.outside(guest.directory).exists()
    for option in ((), ("--inactive",)):
        xml = other.virsh("dumpxml", guest.uuid, *option)
        assert "name='broker'" in xml and volume.address not in xml
        assert f"bridge='{bridge}'" in xml and "disk.config" in xml
    assert bridge in other.tell("ip", "link", "show", "master", bridge)
    assert "compute-agent" in other.virsh("secret-list") and volume_id not in one.virsh("secret-list")
    told = both.senders[1].call("get_console_output", instance_uuid=guest.uuid)
    said = str(told["output"]) if "output" in told else str(told)
    assert "init disk" in said and f"tick {guest.last_tick().number - 2} up" in said
    record = both.senders[1].call("get_instance", instance_uuid=guest.uuid)["instance"]
    assert record["network_info"][0]["bridge"] == bridge
