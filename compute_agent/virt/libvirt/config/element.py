# SPDX-License-Identifier: Apache-2.0
"""A small declarative layer over XML: a class declares its fields once and both builds and parses.

A field says where its value stands, as a path from the class's own element: ``@name`` (an
attribute), ``source/@file`` (an attribute of a child), ``memory`` (the text of a child), and its
annotation says of what type it is. Fields are written in the order they are declared. What
has no value is not written; what XML has beside our fields is not read.

Values that come from elsewhere may be newer than we are: an enumeration's unknown value is
kept as the plain string it is, so that a domain of someone else's still reads and writes.
"""

import dataclasses
import enum
import functools
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Self

from lxml import etree

_FIELD = "xml"


class XmlError(ValueError):
    """XML that can't be read as what it should be."""


def parse(text: str | bytes) -> etree._Element:
    """Parse XML from elsewhere: no document type, no entities, no network.

    :raises XmlError: if it is not well-formed, or brings a document type
    """
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, remove_comments=True, remove_pis=True
    )
    try:
        root = etree.fromstring(text.encode() if isinstance(text, str) else text, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise XmlError(f"not XML: {error}") from None
    if root.getroottree().docinfo.internalDTD is not None:
        raise XmlError("a document type is not allowed")
    return root


def to_text(root: etree._Element) -> str:
    """Return ``root`` as indented text. What others put into metadata is not ours to indent."""
    kept = {holder: list(holder) for holder in root.iter("metadata")}
    for holder, inside in kept.items():
        for node in inside:
            holder.remove(node)
    etree.indent(root, space="  ")
    for holder, inside in kept.items():
        holder.extend(inside)
    return etree.tostring(root, encoding="unicode", pretty_print=True)


@dataclasses.dataclass(frozen=True)
class Codec:
    """How a value stands in XML."""

    write: Callable[[Any], str]
    read: Callable[[str], Any]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a field's value stands, and in which form."""

    path: str
    codec: Codec | None = None
    kind: "type[Element] | None" = None
    many: bool = False
    unit: str | None = None


REQUIRED = object()
"""As a default: there is none."""


def prop(path: str, *, default: Any = None, codec: Codec | None = None, unit: str | None = None) -> Any:
    """Declare a value at ``path``.

    A ``bool`` at an attribute is ``yes`` or ``no`` (see :data:`ON_OFF` for the other way); at a
    child it is whether the child is there.

    :param default: also what is read where XML has no such thing
    :param codec: for another form than the annotation's usual one
    :param unit: of a size: written beside it as an attribute, converted when read in another
    """
    metadata = {_FIELD: Place(path, codec=codec, unit=unit)}
    if default is REQUIRED:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def child(path: str, kind: "type[Element]") -> Any:
    """Declare one child element of its own class, or None."""
    return dataclasses.field(default=None, metadata={_FIELD: Place(path, kind=kind)})


def children(path: str, kind: "type[Element]") -> Any:
    """Declare a list of child elements of one class."""
    return dataclasses.field(default_factory=list, metadata={_FIELD: Place(path, kind=kind, many=True)})


def texts(path: str) -> Any:
    """Declare a list of strings, each at ``path``: an attribute of a child, or a child's text."""
    return dataclasses.field(default_factory=list, metadata={_FIELD: Place(path, codec=STRING, many=True)})


STRING = Codec(str, str)
INTEGER = Codec(str, lambda text: int(text, 0))
YES_NO = Codec(lambda value: "yes" if value else "no", lambda text: text == "yes")
ON_OFF = Codec(lambda value: "on" if value else "off", lambda text: text == "on")


class Element:
    """Base of what stands for an XML element. Subclasses are dataclasses and set :attr:`TAG`."""

    TAG: ClassVar[str]

    @classmethod
    def places(cls) -> "list[tuple[str, Place, Codec]]":
        """Return the declared fields: name, place and codec."""
        return _places(cls)

    def to_element(self) -> etree._Element:
        """Build the XML element."""
        node = etree.Element(self.TAG)
        for name, place, codec in _places(type(self)):
            _write(node, place, codec, getattr(self, name))
        return node

    def to_xml(self) -> str:
        """Build XML text."""
        return to_text(self.to_element())

    @classmethod
    def from_element(cls, node: etree._Element) -> Self:
        """Read our fields from an XML element.

        :raises XmlError: if it is another element, or a value is not of its type
        """
        if node.tag != cls.TAG:
            raise XmlError(f"expected <{cls.TAG}>, found <{node.tag}>")
        found = {name: _read(node, place, codec) for name, place, codec in _places(cls)}
        try:
            return cls(**{name: value for name, value in found.items() if value is not None})
        except TypeError as error:
            raise XmlError(f"<{cls.TAG}>: {error}") from None

    @classmethod
    def from_xml(cls, text: str | bytes) -> Self:
        """Read our fields from XML text.

        :raises XmlError: if it is not XML, another element, or a value is not of its type
        """
        return cls.from_element(parse(text))


_PLACES: dict[type, list[tuple[str, Place, Codec]]] = {}


def _places(cls: type[Element]) -> list[tuple[str, Place, Codec]]:
    if cls not in _PLACES:
        _PLACES[cls] = _declared(cls)
    return _PLACES[cls]


def _declared(cls: type[Element]) -> list[tuple[str, Place, Codec]]:
    hints = typing.get_type_hints(cls)
    return [
        (field.name, field.metadata[_FIELD], field.metadata[_FIELD].codec or _usual_codec(hints[field.name]))
        for field in dataclasses.fields(cls)  # type: ignore[arg-type]
    ]


def _usual_codec(hint: Any) -> Codec:
    if isinstance(hint, types.UnionType):
        (hint,) = (member for member in typing.get_args(hint) if member is not types.NoneType)
    if hint is bool:
        return YES_NO
    if hint is int:
        return INTEGER
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return Codec(str, functools.partial(_open_enum, hint))
    return STRING


def _open_enum(kind: type[enum.Enum], text: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        return text


def _write(node: etree._Element, place: Place, codec: Codec, value: Any) -> None:
    if place.many:
        for item in value:
            _append(node, place, codec, item)
    elif isinstance(value, Element):
        _append(node, place, codec, value)
    elif place.path.rpartition("/")[2].startswith("@"):
        if value is not None:
            parent, _, attribute = place.path.rpartition("/")
            _reach(node, parent).set(attribute[1:], codec.write(value))
    elif value is True:
        _reach(node, place.path)
    elif value is not None and value is not False:
        _set_text(_reach(node, place.path), place, codec, value)


def _append(node: etree._Element, place: Place, codec: Codec, value: Any) -> None:
    parent, _, tag = place.path.rpartition("/")
    if isinstance(value, Element):
        _reach(node, parent).append(value.to_element())
    elif tag.startswith("@"):
        parent, _, holder = parent.rpartition("/")
        etree.SubElement(_reach(node, parent), holder).set(tag[1:], codec.write(value))
    else:
        etree.SubElement(_reach(node, parent), tag).text = codec.write(value)


def _set_text(node: etree._Element, place: Place, codec: Codec, value: Any) -> None:
    if place.unit is not None:
        node.set("unit", place.unit)
    node.text = codec.write(value)


def _reach(node: etree._Element, path: str) -> etree._Element:
    """Return the element at ``path`` below ``node``, made where it is not there."""
    for tag in filter(None, path.split("/")):
        found = node.find(tag)
        node = etree.SubElement(node, tag) if found is None else found
    return node


def _read(node: etree._Element, place: Place, codec: Codec) -> Any:
    parent, _, last = place.path.rpartition("/")
    if place.many and last.startswith("@"):
        texts = (holder.get(last[1:]) for holder in node.findall(parent))
        return [_decode(place, codec, text) for text in texts if text is not None]
    if place.many:
        return [_read_one(found, place, codec) for found in node.findall(place.path)]
    if last.startswith("@"):
        holder = node.find(parent) if parent else node
        text = None if holder is None else holder.get(last[1:])
        return None if text is None else _decode(place, codec, text)
    found = node.find(place.path)
    if codec is YES_NO and place.kind is None:
        return found is not None
    return None if found is None else _read_one(found, place, codec)


def _read_one(node: etree._Element, place: Place, codec: Codec) -> Any:
    if place.kind is not None:
        return place.kind.from_element(node)
    value = _decode(place, codec, node.text or "")
    return value if place.unit is None else _convert(value, node.get("unit", "KiB"), place.unit)


def _decode(place: Place, codec: Codec, text: str) -> Any:
    try:
        return codec.read(text.strip())
    except ValueError as error:
        raise XmlError(f"{place.path}: {error}") from None


_UNITS = {
    "b": 1, "bytes": 1, "k": 2**10, "KiB": 2**10, "KB": 10**3, "M": 2**20, "MiB": 2**20, "MB": 10**6,
    "G": 2**30, "GiB": 2**30, "GB": 10**9, "T": 2**40, "TiB": 2**40, "TB": 10**12,
}  # fmt: skip


def _convert(value: int, unit: str, to: str) -> int:
    if unit not in _UNITS:
        raise XmlError(f"unknown unit: {unit}")
    return value * _UNITS[unit] // _UNITS[to]


def walk(element: Element) -> Iterator[Element]:
    """Return ``element`` and every declared element inside it."""
    yield element
    for name, _, _ in element.places():
        value = getattr(element, name)
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, Element):
                yield from walk(item)
