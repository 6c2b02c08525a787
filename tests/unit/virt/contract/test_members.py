# SPDX-License-Identifier: Apache-2.0
"""Every driver has every member of the contract, exactly as published."""

import importlib.util
import inspect
from typing import Any

import pytest

from compute_agent.model import errors
from compute_agent.virt import driver as module
from compute_agent.virt.driver import ComputeDriver
from compute_agent.virt.fake import FakeDriver
from compute_agent.virt.fake.virtapi import MemoryVirtAPI
from tests.unit.virt.contract.table import ATTRIBUTES, FUNCTIONS, METHODS, ROWS, UNSUPPORTED, Row, shape

DRIVERS: list[type[ComputeDriver]] = [ComputeDriver, FakeDriver]
if importlib.util.find_spec("libvirt") and importlib.util.find_spec("compute_agent.virt.libvirt.driver"):
    from compute_agent.virt.libvirt import LibvirtDriver

    DRIVERS.append(LibvirtDriver)


def named(row: Any) -> str | None:
    return row.name if isinstance(row, Row) else None


drivers = pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.__name__)


def test_the_table_is_complete() -> None:
    assert len(ROWS) == len({row.name for row in ROWS}) > 130


@drivers
@pytest.mark.parametrize("row", METHODS, ids=named)
def test_a_member_has_the_published_signature(driver: type[ComputeDriver], row: Row) -> None:
    assert shape(getattr(driver, row.name)) == row.parameters()


@drivers
@pytest.mark.parametrize("row", METHODS, ids=named)
def test_a_member_is_documented(driver: type[ComputeDriver], row: Row) -> None:
    assert inspect.getdoc(getattr(driver, row.name))


@pytest.mark.parametrize("row", METHODS, ids=named)
def test_the_base_tells_where_a_member_comes_from(row: Row) -> None:
    documented = ComputeDriver if row.name == "__init__" else getattr(ComputeDriver, row.name)
    told = documented.__doc__ or ""
    if row.name == "__init__":
        told = inspect.getmro(ComputeDriver)[-2].__doc__ or ""
    line = told.partition("Contract: ")[2].replace(";", ".").partition(".")[0]
    told_contracts = {name.strip().lower() for name in line.split("(")[0].split(",")}
    assert told_contracts == set(row.contracts)


@drivers
@pytest.mark.parametrize("row", ATTRIBUTES, ids=named)
def test_attributes_are_there(driver: type[ComputeDriver], row: Row) -> None:
    value = inspect.getattr_static(driver, row.name)
    if row.kind == "property":
        assert isinstance(value, property)
    elif isinstance(row.value, dict):
        assert row.value.keys() <= value.keys()
        assert all(isinstance(flag, bool) for flag in value.values())
    else:
        assert value == row.value


def test_the_base_offers_no_capability() -> None:
    assert not any(ComputeDriver.capabilities.values())


@pytest.mark.parametrize("row", FUNCTIONS, ids=named)
def test_functions_beside_the_class_are_there(row: Row) -> None:
    found = getattr(module, row.name)
    expected = row.parameters()
    if row.kind == "class":  # ours has more fields, by keyword
        assert [part[:1] for part in shape(found)[: len(expected)]] == [part[:1] for part in expected]
        required = inspect.Parameter.empty
        assert all(default is not required for _, _, default in shape(found)[len(expected) :])
    else:
        assert shape(found) == expected
    assert inspect.getdoc(found)


def call(driver: ComputeDriver, row: Row) -> Any:
    needed: dict[Any, int] = {inspect.Parameter.POSITIONAL_OR_KEYWORD: 0}
    given = [
        None for _, kind, default in row.parameters() if kind in needed and default is inspect.Parameter.empty
    ]
    return getattr(driver, row.name)(*given)


@pytest.mark.parametrize("driver", [ComputeDriver, FakeDriver], ids=lambda driver: driver.__name__)
@pytest.mark.parametrize("row", UNSUPPORTED, ids=named)
def test_what_is_not_offered_says_so(driver: type[ComputeDriver], row: Row) -> None:
    with pytest.raises(errors.UnsupportedOperation, match=row.name) as raised:
        call(driver(MemoryVirtAPI()), row)
    assert isinstance(raised.value, NotImplementedError)


@pytest.mark.parametrize("row", [row for row in METHODS if row.target == "base"], ids=named)
def test_the_defaults_need_no_hypervisor(row: Row) -> None:
    base = ComputeDriver(MemoryVirtAPI())
    if row.name in ("__init__", "emit_event"):
        return
    assert call(base, row) in (None, False, base.network_binding_host_id(None, None))  # type: ignore[arg-type]


@pytest.mark.parametrize("row", [row for row in METHODS if row.target == "real"], ids=named)
def test_the_fake_driver_does_everything_that_is_real(row: Row) -> None:
    member = getattr(FakeDriver, row.name)
    assert not getattr(member, "__unsupported__", False)


def test_verbs_follow_from_the_members() -> None:
    assert "spawn" not in ComputeDriver(MemoryVirtAPI()).supported_verbs()
    assert {"forget", "cancel_operation"} <= ComputeDriver(MemoryVirtAPI()).supported_verbs()
    fake = FakeDriver(MemoryVirtAPI()).supported_verbs()
    assert {"spawn", "destroy", "snapshot", "rescue", "migrate"} <= fake


def test_every_verb_of_the_interface_is_accounted_for() -> None:
    from compute_agent.model.arguments import VERBS
    from compute_agent.virt.contract.verbs import MEMBERS

    assert MEMBERS.keys() == VERBS.keys()
    assert all(hasattr(ComputeDriver, member) for members in MEMBERS.values() for member in members)
