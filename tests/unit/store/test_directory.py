# SPDX-License-Identifier: Apache-2.0
"""The state directory: what can't be opened is not what is damaged."""

import contextlib
import sqlite3
from pathlib import Path

import pytest

from compute_agent.store.directory import NotNow, StateDirectory


def test_a_state_file_that_cannot_be_opened_now_is_not_replaced(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    directory = StateDirectory(str(first))
    store = directory.open("node-1")
    assert store.identity is not None
    epoch = store.identity.epoch
    second.mkdir()
    with (
        contextlib.closing(sqlite3.connect(first / "state.db")) as source,
        contextlib.closing(sqlite3.connect(second / "state.db")) as target,
    ):
        source.backup(target)
    directory.close(store)

    (second / "state.db-wal").mkdir()
    directory = StateDirectory(str(second))
    with pytest.raises(NotNow, match=r"state\.db can't be opened"):
        directory.open("node-1")
    (second / "state.db-wal").rmdir()
    store = directory.open("node-1")
    assert store.identity is not None
    assert store.identity.epoch == epoch
    directory.close(store)
