# SPDX-License-Identifier: Apache-2.0
"""The description of an instance inside its domain.

What spawn was told, without its secrets, travels in the domain's ``<metadata>`` under our
own XML namespace, so that a lost state file can be put together again from the hypervisor.
The text is JSON in pure ASCII: nothing in it can upset an XML parser.

Writing is strict, reading is tolerant: what is damaged, foreign, oversized or copied from
another domain (a clone has a new uuid) is no description, and never an exception.
"""

import dataclasses
import json
import re
from typing import Any

import msgspec
from lxml import etree
from msgspec import inspect

from compute_agent.model import errors, secrets
from compute_agent.model.instance import Instance
from compute_agent.virt.libvirt.config import element

NAMESPACE = "https://compute-agent.org/xmlns/instance/1"
PREFIX = "compute-agent"
SIZE_LIMIT = 1024 * 1024
"""Bytes of JSON that a domain may carry; libvirt takes 4 MiB for the whole domain."""
_TAG = f"{{{NAMESPACE}}}instance"
_OPERATION_ID = re.compile(r"[A-Za-z0-9._:-]{1,255}")


@dataclasses.dataclass(frozen=True)
class Description:
    """What was found in a domain. ``operation_id`` is the operation that made it."""

    instance: Instance
    generation: int
    operation_id: str | None


def describe(instance: Instance, generation: int, operation_id: str | None) -> etree._Element:
    """Return the element that goes into a domain's ``<metadata>``.

    :raises MessageTooLarge: if the description is over :data:`SIZE_LIMIT`
    """
    instance = instance.named()
    plain = _without_secrets(instance, secrets.redacted(instance))
    text = json.dumps(plain, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    if len(text) > SIZE_LIMIT:
        raise errors.MessageTooLarge(
            f"the instance's description takes {len(text)} bytes, a domain holds {SIZE_LIMIT}"
        )
    node = etree.Element(_TAG, nsmap={PREFIX: NAMESPACE})
    node.set("generation", str(generation))
    if operation_id is not None:
        node.set("operation_id", operation_id)
    node.text = text
    return node


def read(domain_xml: str) -> Description | None:
    """Return the description in ``domain_xml``, or None where there is none to be trusted."""
    try:
        root = element.parse(domain_xml)
        node = root.find(f"metadata/{_TAG}")
        return None if node is None else _read(node, root.findtext("uuid"))
    except (element.XmlError, ValueError, TypeError, RecursionError, OverflowError):
        return None


def _read(node: etree._Element, domain_uuid: str | None) -> Description | None:
    text = node.text or ""
    if len(text) > SIZE_LIMIT:
        return None
    instance = msgspec.convert(_known(json.loads(text), inspect.type_info(Instance)), Instance)
    generation = int(node.get("generation", ""))
    operation_id = node.get("operation_id")
    if instance.uuid != domain_uuid or not 0 <= generation <= 2**53:
        return None
    if operation_id is not None and not _OPERATION_ID.fullmatch(operation_id):
        return None
    return Description(instance, generation, operation_id)


def _without_secrets(value: Any, plain: Any) -> Any:
    """Return ``plain``, the redacted form of ``value``, without what was redacted."""
    if isinstance(value, msgspec.Struct):
        value = msgspec.structs.asdict(value)
    if isinstance(value, dict):
        return {
            key: _without_secrets(value[key], item)
            for key, item in plain.items()
            if item != secrets.HIDDEN or value[key] == secrets.HIDDEN
        }
    if isinstance(value, list | tuple):
        return [_without_secrets(*pair) for pair in zip(value, plain, strict=True)]
    return plain


def _known(value: Any, info: inspect.Type) -> Any:
    """Return ``value`` without the fields of newer releases."""
    if isinstance(info, inspect.Metadata):
        return _known(value, info.type)
    if isinstance(info, inspect.UnionType):
        for member in info.types:
            value = _known(value, member)
        return value
    if isinstance(info, inspect.StructType) and isinstance(value, dict):
        types = {field.encode_name: field.type for field in info.fields}
        return {key: _known(item, types[key]) for key, item in value.items() if key in types}
    if isinstance(info, inspect.ListType) and isinstance(value, list):
        return [_known(item, info.item_type) for item in value]
    return value
