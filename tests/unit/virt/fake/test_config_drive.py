# SPDX-License-Identifier: Apache-2.0
"""The fake driver gives config drives to the same guests, and refuses the same of them, as a real one."""

from typing import Any

import pytest

from compute_agent.model import errors
from compute_agent.model.image import Image
from tests.unit.virt.fake.conftest import Host, make_instance


def spawn(host: Host, password: str | None = None, files: Any = (), **fields: Any) -> list[str]:
    """Spawn a guest; the sources of its devices."""
    instance = make_instance(network_info=[], block_device_mapping=[], **fields)
    host.driver.spawn(None, instance, instance.image, list(files), password, None, [])
    return [device.source for device in host.driver.hypervisor.get(instance.uuid).devices.values()]


def test_a_guest_that_nothing_is_told_has_no_drive(host: Host) -> None:
    assert spawn(host) == ["disk"]


@pytest.mark.parametrize(
    "given",
    [
        {"config_drive": True},
        {"user_data": "aGk="},
        {"ssh_keys": ["ssh-rsa A"]},
        {"image": Image(url="file:///one", properties={"img_config_drive": "mandatory"})},
        {"password": "p"},
        {"files": [("/etc/motd", "aGk=")]},
    ],
)
def test_a_guest_that_is_told_something_has_one_last(host: Host, given: dict[str, Any]) -> None:
    assert spawn(host, **given) == ["disk", "disk.config"]


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"user_data": "?"}, errors.InvalidArguments),
        ({"ssh_keys": ["a\nb"]}, errors.InvalidArguments),
        ({"files": [("/etc/../motd", "")]}, errors.InvalidArguments),
        ({"files": [("/a", ""), ("//a", "")]}, errors.InvalidArguments),
        ({"files": [("/a", "A" * 2**21)]}, errors.MessageTooLarge),
        (
            {"image": Image(url="file:///one", properties={"img_config_drive": "perhaps"})},
            errors.InvalidArguments,
        ),
    ],
)
def test_what_no_drive_can_be_made_of_is_refused_and_leaves_nothing(
    host: Host, given: dict[str, Any], error: type[errors.ComputeError]
) -> None:
    with pytest.raises(error):
        spawn(host, **given)
    assert host.world.directories == {}
    assert host.world.domains == {}
