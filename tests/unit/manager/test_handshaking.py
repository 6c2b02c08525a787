# SPDX-License-Identifier: Apache-2.0
"""What an agent answers to agents of other releases, before anything is begun."""

from __future__ import annotations

import uuid
from typing import Any

from compute_agent.manager.handshaking import Handshaking
from compute_agent.model.peer import PROTOCOL, Check, PeerMessage
from tests.unit.house import House


class Told:
    """The way to other agents, which keeps what was told."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, PeerMessage]] = []

    def tell(self, host: str, message: PeerMessage) -> None:
        self.messages.append((host, message))


def _checked(house: House, **more: Any) -> dict[str, Any]:
    """Ask whether a guest may come; the answer's payload."""
    told = Told()
    asked = {
        "migration_id": str(uuid.uuid4()),
        "instance_uuid": str(uuid.uuid4()),
        "check": "check",
        "sender": "another",
    }
    Handshaking(house.manager, told).receive(asked | more)
    [(host, message)] = told.messages
    assert (host, message.check, message.protocol) == ("another", Check.CHECKED, PROTOCOL)
    return message.payload


def test_an_agent_of_another_handshake_hears_which_one_this_is(house: House) -> None:
    error = _checked(house, protocol=PROTOCOL + 1)["error"]
    assert error["code"] == "MigrationRefused" and str(PROTOCOL + 1) in error["message"] and error["hint"]


def test_one_of_the_same_is_judged_by_what_it_asks(house: House) -> None:
    assert _checked(house)["error"]["code"] == "InvalidArguments"
