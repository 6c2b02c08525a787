# SPDX-License-Identifier: Apache-2.0
"""What a domain carries of its instance: enough to adopt it again, and no secret."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.virt.libvirt import config, metadata
from tests.unit.virt.libvirt.config.scenarios import UUID

SECRET = "c2VjcmV0LXZhbHVl"


def instance(**changes: Any) -> Instance:
    plain = {
        "uuid": UUID,
        "name": "web",
        "display_name": "quotes \" ' and <tags> & \u2028 ünïcode ]]> 😀",
        "flavor": {"vcpus": 2, "memory_mb": 256, "extra_specs": {"hw:boot_menu": "yes"}},
        "image": {"url": f"https://example.org/i?sig={SECRET}", "headers": {"X-Auth-Token": SECRET}},
        "user_data": SECRET,
        "vendor_data": {"password": SECRET},
        "metadata": {"role": "***"},
        "network_info": [{"id": "port-1", "address": "52:54:00:12:34:56", "bridge": "br0"}],
        "block_device_mapping": [
            {
                "source_type": "volume",
                "volume_id": "v",
                "connection_info": {"data": {"auth_password": SECRET}},
                "encryption": {"key": SECRET},
            }
        ],
        **changes,
    }
    return msgspec.convert(plain, Instance)


def domain_xml(given: Instance, uuid: str = UUID, **changes: Any) -> str:
    described = metadata.describe(given, 4, "operation-1")
    return config.Domain(name="web", uuid=uuid, metadata=config.Metadata(described), **changes).to_xml()


def test_an_instance_reads_back_without_its_secrets() -> None:
    given = instance()
    xml = domain_xml(given)
    found = metadata.read(xml)
    assert found is not None
    (volume,) = given.block_device_mapping
    assert given.image is not None
    assert found.instance == msgspec.structs.replace(
        given,
        image=msgspec.structs.replace(given.image, headers={}, url="https://example.org/i"),
        user_data=None,
        vendor_data={},
        block_device_mapping=[msgspec.structs.replace(volume, connection_info=None, encryption=None)],
    )
    assert (found.generation, found.operation_id) == (4, "operation-1")
    assert SECRET not in xml


def test_an_instance_without_a_name_reads_back_with_its_default_one() -> None:
    found = metadata.read(domain_xml(instance(name=instance().name).named()))
    assert found is not None
    unnamed = msgspec.structs.replace(instance(), name="")
    found = metadata.read(domain_xml(unnamed))
    assert found is not None
    assert found.instance.name == "instance-5f0c1a9e"


def test_an_operation_need_not_be_known() -> None:
    described = metadata.describe(instance(), 0, None)
    xml = config.Domain(uuid=UUID, metadata=config.Metadata(described)).to_xml()
    found = metadata.read(xml)
    assert found is not None
    assert found.operation_id is None


def test_fields_of_a_newer_release_are_passed_over() -> None:
    xml = domain_xml(instance()).replace(
        '{"block_device_mapping"', '{"newer":{"a":[1]},"block_device_mapping"'
    )
    xml = xml.replace('"flavor":{', '"flavor":{"newer":1,')
    assert metadata.read(xml) is not None


def test_a_clone_of_a_domain_is_not_the_instance() -> None:
    assert metadata.read(domain_xml(instance(), uuid=UUID.replace("5f", "6f"))) is None


GOOD = domain_xml(instance())
DAMAGED = {
    "nothing": "",
    "no xml": "domain",
    "another element": "<network/>",
    "a domain of someone else's": "<domain><uuid>x</uuid></domain>",
    "metadata of someone else's": GOOD.replace(metadata.NAMESPACE, "urn:other"),
    "json cut off": re.sub(r"\}</", "</", GOOD),
    "no json": re.sub(r">\{.*\}</", ">text</", GOOD),
    "json of another kind": re.sub(r">\{.*\}</", ">[1, 2]</", GOOD),
    "json far too deep": re.sub(r">\{.*\}</", ">" + "[" * 100_000 + "</", GOOD),
    "an empty element": re.sub(r">\{.*\}</", "></", GOOD),
    "a field of the wrong type": GOOD.replace('"vcpus":2', '"vcpus":"two"'),
    "a field that is missing": GOOD.replace('"memory_mb":256,', ""),
    "a field out of its range": GOOD.replace('"vcpus":2', '"vcpus":0'),
    "a path for a name": GOOD.replace('"name":"web"', '"name":"../web"'),
    "no generation": GOOD.replace('generation="4"', ""),
    "a strange generation": GOOD.replace('generation="4"', 'generation="x"'),
    "a generation below zero": GOOD.replace('generation="4"', 'generation="-1"'),
    "a strange operation": GOOD.replace("operation-1", "a b\n"),
    "a document type": "<!DOCTYPE domain>" + GOOD,
    "an image for an instance": re.sub(r">\{.*\}</", '>{"url": "file:///x"}</', GOOD),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_or_foreign_description_is_none(what: str) -> None:
    assert metadata.read(GOOD) is not None
    assert metadata.read(DAMAGED[what]) is None


def test_a_description_has_a_limit() -> None:
    large = instance(metadata={f"key-{number}": "x" * 4000 for number in range(300)})
    with pytest.raises(errors.MessageTooLarge):
        metadata.describe(large, 0, None)
    padded = GOOD.replace('{"block_device_mapping"', " " * metadata.SIZE_LIMIT + '{"block_device_mapping"')
    assert metadata.read(padded) is None
