# SPDX-License-Identifier: Apache-2.0
"""How long ended operations, their ids, sent events and tombstones are kept."""

from compute_agent.conf import CONF
from compute_agent.model import clock
from compute_agent.store import handshakes, instances, journal, outbox
from compute_agent.store.database import Store, Transaction

IDS_KEPT_DAYS = 30
DAY_S = 86400
BATCH = 1000


def _before(days: float) -> str:
    return clock.timestamp(clock.after(-days * DAY_S))


def age_out(store: Store) -> None:
    """Drop what is older than its retention, in small transactions."""
    records, ids = _before(CONF.journal.retention_days), _before(IDS_KEPT_DAYS)
    events, keep = _before(CONF.events.retention_days), CONF.events.retention_count

    def once(tx: Transaction) -> int:
        instances.forget_tombstones(tx, ids)
        handshakes.age_out(tx, ids)
        return max(journal.age_out(tx, records, ids, BATCH), outbox.age_out(tx, events, keep, BATCH))

    while store.write(once) >= BATCH:
        pass
