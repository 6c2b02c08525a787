# SPDX-License-Identifier: Apache-2.0
"""Volumes over AMQP: what stands on record of them, what is never told, and that record and guest agree."""

from __future__ import annotations

import pathlib
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.functional.serving import Served, serving
from tests.rig.broker import Broker
from tests.rig.hypervisor import Hypervisor
from tests.rig.iscsiserver import IscsiServer

PASSWORD, PHRASE = "pass-word-of-chap", "pass-phrase-of-luks"
MIB = 2**20


@pytest.fixture(scope="module")
def place(hypervisor: Hypervisor) -> pathlib.Path:
    """A directory that volumes may be in."""
    path = hypervisor.scratch / "volumes"
    path.mkdir(exist_ok=True)
    return path


@pytest.fixture(scope="module")
def served(
    request: pytest.FixtureRequest, broker: Broker, hypervisor: Hypervisor, place: pathlib.Path
) -> Iterator[Served]:
    """An agent with real guests, which are asked once, for two seconds, to release a volume."""
    volumes = {"allowed_paths": [f"{place}/"], "detach_attempts": 1, "detach_timeout": 2}
    with serving(request, broker, hypervisor, sections={"volumes": volumes}) as one:
        yield one


def local(place: pathlib.Path, size: int = MIB) -> dict[str, Any]:
    """A volume that is a new file."""
    volume_id = str(uuid.uuid4())
    with (place / volume_id).open("wb") as file:
        file.truncate(size)
    info = {"driver_volume_type": "local", "data": {"device_path": str(place / volume_id)}}
    return {"volume_id": volume_id, "connection_info": info}


def on_record(served: Served, instance: str) -> list[tuple[str, str | None]]:
    devices = served.record(instance)["instance"]["block_device_mapping"]
    return [(device["volume_id"], device["mountpoint"]) for device in devices]


def serials(served: Served, instance: str) -> tuple[list[str], list[str]]:
    """The serial numbers of a guest's volumes, in what runs and in the definition."""
    guest, known = served.guest(instance), dict(on_record(served, instance))
    live, kept = (guest.xml(inactive=inactive).findall("devices/disk") for inactive in (False, True))
    shown = [[disk.findtext("serial") or "" for disk in disks] for disks in (live, kept)]
    return [one for one in shown[0] if one in known], [one for one in shown[1] if one in known]


def test_a_guest_that_keeps_its_volume_has_it_on_record_too(served: Served, place: pathlib.Path) -> None:
    instance, volume = served.spawn(), local(place) | {"mountpoint": "/dev/vdc", "tag": "data"}
    served.do("attach_volume", instance_uuid=instance, volume=volume)
    kept = [(volume["volume_id"], "/dev/vdc")]
    assert on_record(served, instance) == kept
    error = served.fail("detach_volume", instance_uuid=instance, volume_id=volume["volume_id"])
    assert (error["code"], error["step"]) == ("DeviceBusy", "release")
    assert on_record(served, instance) == kept
    assert serials(served, instance) == ([volume["volume_id"]], [volume["volume_id"]])
    served.do("power_off", instance_uuid=instance, timeout=0)
    served.do("detach_volume", instance_uuid=instance, volume_id=volume["volume_id"])
    assert on_record(served, instance) == []
    assert served.fail("detach_volume", instance_uuid=instance, volume_id=volume["volume_id"])["code"] == (
        "InvalidArguments"
    )
    served.do("destroy", instance_uuid=instance)
    assert served.left_of(instance) == []


def test_names_that_nobody_wished_are_on_record_and_stay(served: Served, place: pathlib.Path) -> None:
    """Also where a disk before them goes, or the image is another."""
    first, second, third = local(place), local(place), local(place)
    devices = [{"source_type": "volume", **volume} for volume in (first, second)]
    instance = served.spawn(block_device_mapping=devices)
    served.do("attach_volume", instance_uuid=instance, volume=third)
    assert on_record(served, instance)[2] == (third["volume_id"], "/dev/vdd")
    served.do("power_off", instance_uuid=instance, timeout=0)
    served.do("detach_volume", instance_uuid=instance, volume_id=first["volume_id"])
    named = {second["volume_id"]: "vdc", third["volume_id"]: "vdd"}
    served.do("reboot", instance_uuid=instance, reboot_type="HARD")
    assert names(served, instance) == named
    served.do("rebuild", instance_uuid=instance, image=served.record(instance)["instance"]["image"])
    assert names(served, instance) == named
    served.do("destroy", instance_uuid=instance)
    assert served.left_of(instance) == []


def names(served: Served, instance: str) -> dict[str, str]:
    """The names of a running guest's volumes."""
    known = dict(on_record(served, instance))
    found = {
        disk.findtext("serial") or "": disk.find("target").get("dev", "")  # type: ignore[union-attr]
        for disk in served.guest(instance).xml().findall("devices/disk")
    }
    return {serial: name for serial, name in found.items() if serial in known}


def test_a_swap_keeps_the_place_of_a_volume_and_an_extension_is_noted(
    served: Served, place: pathlib.Path
) -> None:
    old, new = local(place), local(place)
    device = {"source_type": "volume", "mountpoint": "/dev/vdd", **old}
    instance = served.spawn(block_device_mapping=[device])
    served.do("swap_volume", instance_uuid=instance, old_volume_id=old["volume_id"], volume=new)
    assert on_record(served, instance) == [(new["volume_id"], "/dev/vdd")]
    served.do(
        "extend_volume",
        instance_uuid=instance,
        volume_id=new["volume_id"],
        connection_info=new["connection_info"],
        size_gb=1,
    )
    assert (place / new["volume_id"]).stat().st_size == 2**30
    assert served.record(instance)["instance"]["block_device_mapping"][0]["size_gb"] == 1
    served.do("reboot", instance_uuid=instance, reboot_type="HARD")
    assert serials(served, instance) == ([new["volume_id"]], [new["volume_id"]])
    served.do("destroy", instance_uuid=instance)
    assert served.left_of(instance) == []


def test_passwords_are_told_to_nobody(served: Served) -> None:
    with IscsiServer(password=PASSWORD) as server:
        instance = served.spawn()
        volume = {"volume_id": str(uuid.uuid4()), "connection_info": server.connection_info}
        served.do("attach_volume", instance_uuid=instance, volume=volume)
        wrong = volume | {
            "volume_id": str(uuid.uuid4()),
            "encryption": {"provider": "luks", "passphrase": PHRASE},
        }
        assert (
            served.fail("attach_volume", instance_uuid=instance, volume=wrong)["code"] == "VolumeUnavailable"
        )
        assert [volume_id for volume_id, _ in on_record(served, instance)] == [volume["volume_id"]]
        told = [str(served.receiver.events), served.agent.log_text(), str(served.record(instance))]
        told += [path.read_text() for path in served.hypervisor.scratch.glob("etc/qemu/*.xml")]
        assert [text for text in told if PASSWORD in text or PHRASE in text] == []
        served.do("destroy", instance_uuid=instance)
        assert served.left_of(instance) == []
