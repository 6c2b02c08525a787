# SPDX-License-Identifier: Apache-2.0
"""What the agents at the two ends of a migration tell each other."""

import enum
from typing import Any

import msgspec

from compute_agent.model.fields import HostName, Uuid
from compute_agent.model.handshake import Message

METHOD = "migration_message"
"""What such a message is called on the wire. It is cast, may be lost, and is told until it is answered."""

PROTOCOL = 1
"""The version of the handshake and its messages. Agents of different ones begin nothing with each other."""


class Check(enum.StrEnum):
    """What comes before a handshake: nothing is promised, and nothing stays but marks on disks."""

    CHECK = "check"
    CHECKED = "checked"


class PeerMessage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One message: of a handshake, or of what comes before it.

    ``protocol``: that of the sender. ``payload``: with ``check`` and ``prepare`` what is to come (see
    :class:`ReceiveMigration`); what the drivers agree on so far (``data``) with ``checked``, ``prepare``,
    ``ready`` and ``cancel``; why not (``error``) with ``checked`` and ``declined``.
    """

    migration_id: Uuid
    instance_uuid: Uuid
    message: Message | None = None
    check: Check | None = None
    sender: HostName
    protocol: int = PROTOCOL
    payload: dict[str, Any] = {}
