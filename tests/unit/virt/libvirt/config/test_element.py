# SPDX-License-Identifier: Apache-2.0
"""The layer below the declared types: what it reads, and what it refuses."""

from __future__ import annotations

import pytest

from compute_agent.virt.libvirt import config
from compute_agent.virt.libvirt.config import element


def test_sizes_are_read_in_any_unit() -> None:
    for text in (
        '<memory unit="GiB">1</memory>',
        '<memory unit="b">1073741824</memory>',
        "<memory>1048576</memory>",
    ):
        assert config.Domain.from_xml(f"<domain>{text}</domain>").memory == 1048576


def test_a_value_of_a_newer_libvirt_is_kept() -> None:
    disk = config.Disk.from_xml('<disk type="vhostuser"><target dev="vda" bus="nvme"/></disk>')
    assert (disk.type, disk.bus) == ("vhostuser", "nvme")
    assert 'bus="nvme"' in disk.to_xml()


def test_what_is_not_ours_is_passed_over() -> None:
    xml = '<domain type="kvm" xmlns:q="http://libvirt.org/schemas/domain/qemu/1.0"><name>n</name><q:commandline/></domain>'
    assert config.Domain.from_xml(xml) == config.Domain(type="kvm", name="n")


@pytest.mark.parametrize(
    "xml",
    [
        "",
        "not xml",
        "<domain>",
        "<network/>",
        "<domain><vcpu>many</vcpu></domain>",
        '<domain><memory unit="bushels">1</memory></domain>',
        "<domain><devices><controller/></devices></domain>",
        '<!DOCTYPE domain [<!ENTITY a "b">]><domain><name>&a;</name></domain>',
        '<!DOCTYPE domain SYSTEM "http://192.0.2.1/x.dtd"><domain/>',
        "<domain>\x00</domain>",
    ],
)
def test_what_is_not_a_domain_is_refused(xml: str) -> None:
    with pytest.raises(element.XmlError):
        config.Domain.from_xml(xml)


def test_an_external_entity_is_not_read() -> None:
    xml = '<!DOCTYPE d [<!ENTITY a SYSTEM "file:///etc/passwd">]><domain><name>&a;</name></domain>'
    with pytest.raises(element.XmlError):
        config.Domain.from_xml(xml)


def test_text_is_escaped() -> None:
    domain = config.Domain(name="n", title="</title><devices/>")
    assert config.Domain.from_xml(domain.to_xml()) == domain


def test_metadata_of_others_is_kept_as_it_is() -> None:
    xml = '<domain><metadata><a:b xmlns:a="urn:x" c="d">text<e/></a:b></metadata></domain>'
    metadata = config.Domain.from_xml(xml).metadata
    assert metadata is not None
    assert [node.tag for node in metadata.elements] == ["{urn:x}b"]
    assert config.Metadata.from_xml(metadata.to_xml()) == metadata
