# SPDX-License-Identifier: Apache-2.0
"""Pauses that are there for the sake of a real broker or disk are short here, and limits are soon reached."""

import pytest

from compute_agent.conf import CONF


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    if not CONF._namespace:
        CONF([])
    monkeypatch.setattr("compute_agent.events.publisher.RETRY_S", (0.001, 0.01))
    monkeypatch.setattr("compute_agent.events.publisher.FRESH_LIMIT", 10)
    monkeypatch.setattr("compute_agent.events.publisher.NOTE_INTERVAL_S", 0.005)
    monkeypatch.setattr("compute_agent.store.database.RETRY_S", 0.005)
