# SPDX-License-Identifier: Apache-2.0
"""Who gets a config drive."""

from collections.abc import Iterator
from typing import Any

import pytest

from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.image import Image
from compute_agent.virt import configdrive
from compute_agent.virt.configdrive import Given
from tests.unit.virt.configdrive.conftest import plain


@pytest.fixture(autouse=True)
def settings() -> Iterator[None]:
    CONF([], project="compute-agent", default_config_files=[], default_config_dirs=[])
    yield
    for name in ("force_config_drive", "config_drive_label"):
        CONF.clear_override(name)


def image(**properties: str) -> Image:
    return Image(url="file:///images/one", properties=properties)


def test_a_guest_that_nobody_asked_one_for_gets_none() -> None:
    instance = plain(metadata={"role": "web"}, image=image(img_config_drive="optional"))
    assert not configdrive.is_wanted(Given(instance=instance))


@pytest.mark.parametrize(
    "fields",
    [
        {"config_drive": True},
        {"image": image(img_config_drive="mandatory")},
        {"image": image(img_config_drive=" Mandatory ")},
        {"user_data": "aGk="},
        {"vendor_data": {"a": 1}},
        {"ssh_keys": ["ssh-rsa A"]},
    ],
)
def test_an_instance_asks_for_one(fields: dict[str, Any]) -> None:
    assert configdrive.is_wanted(Given(instance=plain(**fields)))


@pytest.mark.parametrize("fields", [{"admin_password": "p"}, {"injected_files": [("/a", "")]}])
def test_what_comes_with_a_request_asks_for_one(fields: dict[str, Any]) -> None:
    assert configdrive.is_wanted(Given(instance=plain(), **fields))


def test_the_configuration_asks_for_one() -> None:
    CONF.set_override("force_config_drive", True)
    assert configdrive.is_wanted(Given(instance=plain()))


def test_the_image_says_what_it_is_called_or_else_the_configuration() -> None:
    assert configdrive.label(Given(instance=plain())) == "config-2"
    assert configdrive.label(Given(instance=plain(image=image(img_config_drive_label="cidata")))) == "cidata"
    CONF.set_override("config_drive_label", "cidata")
    assert configdrive.label(Given(instance=plain(image=image()))) == "cidata"


@pytest.mark.parametrize("name", ["img_config_drive", "img_config_drive_label"])
def test_another_word_of_the_image_is_refused(name: str) -> None:
    given = Given(instance=plain(image=image(**{name: "perhaps"})))
    with pytest.raises(errors.InvalidArguments, match=name):
        configdrive.check(given)
