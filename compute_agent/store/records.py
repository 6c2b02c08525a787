# SPDX-License-Identifier: Apache-2.0
"""Reading records back, whichever release wrote them.

An older one's lack the fields that came since, which therefore have defaults. A later one's, met after a way
back, may have fields that this release does not know: they are left out, and gone when the record is written
again.
"""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from compute_agent.model import decode
from compute_agent.model.event import Event

LOG = logging.getLogger(__name__)

T = TypeVar("T")


def decoder(kind: type[T]) -> Callable[[bytes | str], T]:
    """Return what reads stored records of ``kind``.

    It raises `msgspec.ValidationError` where a later release's record can't be understood: that is
    what a file's contract prevents.
    """
    strict = msgspec.json.Decoder(kind).decode

    def read(text: bytes | str) -> T:
        try:
            return strict(text)
        except msgspec.ValidationError as error:
            LOG.debug("a record of a later release: %s", error)
            return msgspec.convert(decode.only_known(msgspec.json.decode(text), kind), kind)

    return read


_read_event = decoder(Event)


def event(text: bytes | str) -> Event:
    """Read a stored event; one of a type that only a later release knows is sent on as it is."""
    try:
        return _read_event(text)
    except msgspec.ValidationError:
        known: dict[str, Any] = decode.only_known(msgspec.json.decode(text), Event)
        return Event(**known)
