# SPDX-License-Identifier: Apache-2.0
"""Which kind of end belongs to a migration."""

from typing import Any

from compute_agent.manager import moving, resizing
from compute_agent.manager.manager import Manager
from compute_agent.manager.moving import Destination, End, Given, Source
from compute_agent.manager.resizing import ColdDestination, ColdSource
from compute_agent.model.arguments import ReceiveMigration
from compute_agent.model.handshake import OFF
from compute_agent.store.handshakes import HandshakeRecord


def end_of(manager: Manager, record: HandshakeRecord, give: Given) -> End:
    """Return this host's end of a migration.

    :param give: takes what happens here by itself
    """
    at_source = record.source == manager.identity.host
    if record.kind in OFF:
        return (ColdSource if at_source else ColdDestination)(manager, record, give)
    return (Source if at_source else Destination)(manager, record, give)


def check_destination(manager: Manager, asked: ReceiveMigration) -> dict[str, Any]:
    """See whether a guest may come to this host; return what its source's driver is to know.

    :raises ComputeError: if it may not come
    """
    check = resizing.check_destination if asked.kind in OFF else moving.check_destination
    return check(manager, asked)
