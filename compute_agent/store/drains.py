# SPDX-License-Identifier: Apache-2.0
"""The drain on record: which guests it is about, and who named which host for them.

What becomes of each guest is not kept here: the journal and the instances' records tell. There is one drain
at most, the newest.
"""

import msgspec

from compute_agent.store import host, records
from compute_agent.store.database import Transaction

_KEY = "drain"


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """A host that was named for a guest, and the operation that named it."""

    dest: str
    operation_id: str


class DrainRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A drain.

    ``open``: it has not come to its end; another word joins it. ``asks``: no destinations came with it, so
    that it asks again for a guest that could not be moved. ``guests``: all that were here since it began.
    ``asked``: for which guests a placement was asked for, and on what (the failed operation, or nothing);
    ``round``: rises when all of that is to be asked anew.
    """

    operation_id: str
    open: bool = True
    asks: bool = False
    guests: list[str] = []
    words: dict[str, Word] = {}
    asked: dict[str, str] = {}
    round: int = 0


_decode = records.decoder(DrainRecord)


def find(tx: Transaction) -> DrainRecord | None:
    """Return the drain on record, or None."""
    text = host.get(tx, _KEY)
    return _decode(text) if text else None


def put(tx: Transaction, record: DrainRecord) -> DrainRecord:
    """Write the drain, and return it."""
    host.put(tx, _KEY, msgspec.json.encode(record).decode())
    return record


def drop(tx: Transaction) -> None:
    """Strike the drain."""
    host.drop(tx, _KEY)
