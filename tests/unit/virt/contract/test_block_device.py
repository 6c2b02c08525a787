# SPDX-License-Identifier: Apache-2.0
"""Block devices in the form that driver members take."""

from typing import Any

import pytest

from compute_agent.model.block_device import BlockDevice, SourceType
from compute_agent.model.flavor import Flavor
from compute_agent.model.instance import Instance
from compute_agent.virt import block_device as bd

UUID = "11111111-2222-4333-8444-555555555555"


def instance(**fields: Any) -> Instance:
    flavor = Flavor(vcpus=1, memory_mb=64, **fields.pop("flavor", {}))
    return Instance(uuid=UUID, flavor=flavor, **fields)


VOLUME = BlockDevice(
    source_type=SourceType.VOLUME,
    volume_id="vol-1",
    mountpoint="/dev/vdb",
    connection_info={"driver_volume_type": "fake", "data": {}},
)


def test_an_instance_without_devices_has_its_root_only() -> None:
    info = bd.get_block_device_info(instance(), [])
    assert info == {
        "root_device_name": "/dev/vda",
        "ephemerals": [],
        "swap": None,
        "block_device_mapping": [],
    }


def test_ephemerals_and_swap_come_from_the_flavor_and_take_free_names() -> None:
    info = bd.get_block_device_info(instance(flavor={"ephemeral_gb": 5, "swap_mb": 512}), [VOLUME])
    (ephemeral,) = bd.block_device_info_get_ephemerals(info)
    assert (ephemeral["device_name"], ephemeral["size"], ephemeral["virtual_name"]) == (
        "/dev/vdc",
        5,
        "ephemeral0",
    )
    swap = bd.block_device_info_get_swap(info)
    assert (swap["device_name"], swap["swap_size"]) == ("/dev/vdd", 512)
    assert bd.swap_is_usable(swap)


def test_names_follow_the_root_device() -> None:
    info = bd.get_block_device_info(instance(root_device_name="/dev/sda", flavor={"swap_mb": 1}), [])
    assert bd.block_device_info_get_root_device(info) == bd.block_device_info_get_root(info) == "/dev/sda"
    assert bd.block_device_info_get_swap(info)["device_name"] == "/dev/sdb"


def test_blank_devices_are_ephemerals_and_volumes_are_mapped() -> None:
    blank = BlockDevice(source_type=SourceType.BLANK, size_gb=3)
    info = bd.get_block_device_info(instance(), [VOLUME, blank])
    assert [e["size"] for e in bd.block_device_info_get_ephemerals(info)] == [3]
    (mapped,) = bd.block_device_info_get_mapping(info)
    assert mapped["volume_id"] == "vol-1"
    assert mapped["mount_device"] == "/dev/vdb"
    assert mapped["connection_info"] == VOLUME.connection_info


@pytest.mark.parametrize("info", [None, {}])
def test_nothing_is_there_where_nothing_is_told(info: dict[str, Any] | None) -> None:
    assert bd.block_device_info_get_root_device(info) is None
    assert bd.block_device_info_get_ephemerals(info) == []
    assert bd.block_device_info_get_mapping(info) == []
    assert bd.block_device_info_get_swap(info) == {"device_name": None, "swap_size": 0}


@pytest.mark.parametrize(
    ("swap", "usable"),
    [
        (None, False),
        ({"device_name": None, "swap_size": 1}, False),
        ({"device_name": "/dev/vdb", "swap_size": 0}, False),
        ({"device_name": "/dev/vdb", "swap_size": 1}, True),
    ],
)
def test_swap_is_usable_with_a_name_and_a_size(swap: dict[str, Any] | None, usable: bool) -> None:
    assert bd.swap_is_usable(swap) is usable
