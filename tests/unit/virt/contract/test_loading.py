# SPDX-License-Identifier: Apache-2.0
"""How the configured driver is found."""

import logging
from collections.abc import Iterator

import pytest

from compute_agent.conf import CONF
from compute_agent.virt import driver as module
from compute_agent.virt.driver import ComputeDriver, load_compute_driver
from compute_agent.virt.fake import FakeDriver
from compute_agent.virt.fake.virtapi import MemoryVirtAPI


class NoDriver:
    """Takes a virtapi, but is no driver."""

    def __init__(self, virtapi: object) -> None:
        self.virtapi = virtapi


class Outsider(ComputeDriver):
    """A driver from elsewhere."""


class Broken(ComputeDriver):
    """A driver that can't be made."""

    def __init__(self, virtapi: object) -> None:
        raise RuntimeError("out of order")


@pytest.fixture(autouse=True)
def _configured() -> Iterator[None]:
    yield
    CONF.clear_override("compute_driver")


@pytest.mark.parametrize("name", ["fake.FakeDriver", "compute_agent.virt.fake.FakeDriver"])
def test_a_driver_is_found_by_name(name: str) -> None:
    virtapi = MemoryVirtAPI()
    driver = load_compute_driver(virtapi, name)
    assert isinstance(driver, FakeDriver)
    assert driver.virtapi is virtapi


def test_a_driver_is_found_by_a_path_outside_the_package() -> None:
    assert isinstance(load_compute_driver(MemoryVirtAPI(), f"{__name__}.Outsider"), Outsider)


def test_a_driver_is_found_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    point = metadata.EntryPoint("short", "compute_agent.virt.fake:FakeDriver", module.ENTRY_POINTS)
    monkeypatch.setattr(
        metadata, "entry_points", lambda **wanted: [point] if wanted.get("name", "short") == "short" else []
    )
    assert isinstance(load_compute_driver(MemoryVirtAPI(), "short"), FakeDriver)


def test_the_option_says_which() -> None:
    CONF.set_override("compute_driver", "fake.FakeDriver")
    assert isinstance(load_compute_driver(MemoryVirtAPI()), FakeDriver)


@pytest.mark.parametrize(
    "name",
    [
        "no_such_driver",
        "fake.NoSuchDriver",
        "nowhere.Driver",
        f"{__name__}.NoDriver",
        f"{__name__}.Broken",
        f"{__name__}.Nothing",
        "..",
        "fake.driver.",
    ],
)
def test_a_wrong_driver_ends_the_agent(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    with pytest.raises(SystemExit) as ended:
        load_compute_driver(MemoryVirtAPI(), name)
    assert ended.value.code == 1
    assert "compute_driver" in caplog.text
    assert name in caplog.text


def test_a_missing_driver_ends_the_agent(caplog: pytest.LogCaptureFixture) -> None:
    CONF.set_override("compute_driver", "")
    with pytest.raises(SystemExit) as ended:
        load_compute_driver(MemoryVirtAPI())
    assert ended.value.code == 1
    assert "compute_driver" in caplog.text


def test_the_configured_driver_can_be_recognised() -> None:
    CONF.set_override("compute_driver", "fake.FakeDriver")
    assert module.compute_driver_matches("FakeDriver")
    assert not module.compute_driver_matches("LibvirtDriver")
    assert not module.is_xenapi()
    CONF.set_override("compute_driver", "xenapi.XenAPIDriver")
    assert module.is_xenapi()


def test_drivers_of_a_kind_are_made_from_configuration() -> None:
    made = module.driver_dict_from_config([f"one={__name__}.NoDriver", f"two={__name__}.Outsider"], "api")
    assert isinstance(made["one"], NoDriver)
    assert made["two"].virtapi == "api"


@pytest.mark.parametrize("entry", ["one", "one=", "=x.Y", "one=plain"])
def test_a_malformed_kind_is_refused(entry: str) -> None:
    with pytest.raises((ValueError, ImportError)):
        module.driver_dict_from_config([entry])
