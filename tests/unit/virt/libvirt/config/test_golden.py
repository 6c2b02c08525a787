# SPDX-License-Identifier: Apache-2.0
"""The golden files: what the designer makes is what was reviewed, and libvirt's own schema takes it."""

from __future__ import annotations

import pathlib

import pytest
from lxml import etree

from compute_agent.virt.libvirt import config
from compute_agent.virt.libvirt.config import element
from tests.unit.virt.libvirt.config.regenerate import GOLDEN
from tests.unit.virt.libvirt.config.scenarios import SCENARIOS

#: Of Debian's package libvirt0, which libvirt-daemon-system and libvirt-dev bring.
SCHEMA = pathlib.Path("/usr/share/libvirt/schemas/domain.rng")


@pytest.fixture(scope="module")
def schema() -> etree.RelaxNG:
    """Libvirt's schema of a domain. Its absence is a failure: the golden files would prove nothing."""
    return etree.RelaxNG(etree.parse(SCHEMA))


def golden(name: str) -> str:
    return (GOLDEN / f"{name}.xml").read_text()


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_domain_is_written_as_its_golden_file_says(name: str) -> None:
    assert SCENARIOS[name]().to_xml() == golden(name)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_golden_file_reads_back_as_the_domain_it_was_made_of(name: str) -> None:
    assert config.Domain.from_xml(golden(name)) == SCENARIOS[name]()


@pytest.mark.parametrize("name", SCENARIOS)
def test_libvirts_schema_takes_a_golden_file(name: str, schema: etree.RelaxNG) -> None:
    root = etree.fromstring(golden(name))
    for disk_source in root.iterfind(
        "devices/disk/source"
    ):  # newer than the oldest libvirt that is supported
        for newer in disk_source.findall("reconnect"):
            disk_source.remove(newer)
    schema.assertValid(root)


def test_every_golden_file_has_its_scenario() -> None:
    assert {path.stem for path in GOLDEN.glob("*.xml")} == set(SCENARIOS)


def test_every_declared_property_stands_in_some_golden_file() -> None:
    declared = {
        (kind, name)
        for kind in vars(config).values()
        if isinstance(kind, type) and issubclass(kind, element.Element) and kind is not element.Element
        for name, _, _ in kind.places()
    }
    used = {
        (type(found), name)
        for file in SCENARIOS
        for found in element.walk(config.Domain.from_xml(golden(file)))
        for name, _, _ in found.places()
        if _is_written(found, name)
    }
    assert sorted(f"{kind.__name__}.{name}" for kind, name in declared - used) == []


def _is_written(found: element.Element, name: str) -> bool:
    place = next(place for declared, place, _ in found.places() if declared == name)
    value = getattr(found, name)
    if value is False:
        return "@" in place.path
    return value is not None and value != []
