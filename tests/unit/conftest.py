# SPDX-License-Identifier: Apache-2.0
"""Fixtures of several layers: a state file, and an agent without a broker."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from compute_agent.conf import CONF
from compute_agent.store import host
from compute_agent.store.database import Store
from tests.unit.house import House


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A new state file."""
    store = Store(str(tmp_path / "state.db"))
    store.identity = store.write(lambda tx: host.identify(tx, "node-1"))
    yield store
    store.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A started agent on the fake driver."""
    if not CONF._namespace:
        CONF([])
    CONF.set_override("ledger", str(tmp_path / "ledger"), group="fake")
    house = House(tmp_path)
    yield house
    house.stop()
    CONF.clear_override("ledger", group="fake")
