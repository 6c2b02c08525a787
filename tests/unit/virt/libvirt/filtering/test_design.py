# SPDX-License-Identifier: Apache-2.0
"""The golden files: the filters are those that were reviewed, and libvirt's own schema takes them."""

from __future__ import annotations

import pathlib

import pytest
from lxml import etree

from compute_agent.model import errors
from compute_agent.virt.libvirt.filtering import design
from tests.unit.virt.libvirt.filtering.regenerate import GOLDEN
from tests.unit.virt.libvirt.filtering.scenarios import SCENARIOS, UUID, vif

#: Of Debian's package libvirt0.
SCHEMA = pathlib.Path("/usr/share/libvirt/schemas/nwfilter.rng")


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_filter_is_as_its_golden_file_says(name: str) -> None:
    assert SCENARIOS[name]() == (GOLDEN / f"{name}.xml").read_text()


@pytest.mark.parametrize("name", SCENARIOS)
def test_libvirts_schema_takes_it(name: str) -> None:
    etree.RelaxNG(etree.parse(SCHEMA)).assertValid(etree.fromstring(SCENARIOS[name]()))


def test_every_golden_file_has_its_scenario() -> None:
    assert {path.stem for path in GOLDEN.glob("*.xml")} == set(SCENARIOS)


def test_the_same_input_makes_the_same_filter_and_another_instance_another_one() -> None:
    again = [design.design(uuid, vif(), [], grouped=True) for uuid in (UUID, UUID, UUID.replace("6a", "7a"))]
    assert again[0] == again[1]
    assert again[0].name != again[2].name


def test_what_is_no_address_is_refused() -> None:
    with pytest.raises(errors.InvalidArguments, match=r"fixed_ips"):
        design.design(UUID, vif("10.0.0.256"), [], grouped=False)
