# SPDX-License-Identifier: Apache-2.0
"""What is on record of migrations comes back as it was written, and goes when nobody needs it any more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from compute_agent.model.flavor import Flavor
from compute_agent.model.handshake import Kind, Phase
from compute_agent.model.instance import Instance
from compute_agent.store import handshakes, rewound
from compute_agent.store.database import Store
from compute_agent.store.directory import StateDirectory
from compute_agent.store.handshakes import HandshakeRecord

UUID = "30000000-0000-4000-8000-000000000001"
SECRET = "c2VjcmV0"
LATER = "9999-01-01T00:00:00.000000Z"
GUEST = Instance(uuid=UUID, name="guest", flavor=Flavor(vcpus=1, memory_mb=16, root_gb=0), user_data=SECRET)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty state file."""
    directory = StateDirectory(tmp_path / "state")
    opened = directory.open("node-1")
    yield opened
    directory.close(opened)


def record(number: int = 1, **changed: object) -> HandshakeRecord:
    made = HandshakeRecord(
        migration_id=f"20000000-0000-4000-8000-{number:012x}",
        instance_uuid=UUID,
        kind=Kind.COLD,
        phase=Phase.GIVEN,
        settled=True,
        source="node-1",
        destination="node-2",
        instance=GUEST,
        before=GUEST,
        holds=True,
    )
    return msgspec.structs.replace(made, **changed)


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("kind", Kind)
def test_each_kind_and_phase_comes_back_as_it_was(store: Store, kind: Kind, phase: Phase) -> None:
    reverts = record(2).migration_id if kind is Kind.REVERT else None
    written = record(kind=kind, phase=phase, reverts=reverts)
    store.write(lambda tx: handshakes.put(tx, written))
    found = store.read(lambda tx: handshakes.find(tx, written.migration_id))
    assert found is not None
    assert msgspec.structs.replace(found, updated_at="") == written


def test_what_a_release_before_does_not_know_is_written_in_its_words(store: Store) -> None:
    back = record(2, kind=Kind.REVERT, phase=Phase.MOVING, reverts=record().migration_id)
    for one in (record(phase=Phase.DISCARDING), back):
        store.write(lambda tx, one=one: handshakes.put(tx, one))
    texts = store.read(lambda tx: tx.rows("SELECT record FROM handshakes ORDER BY migration_id"))
    words = [(told["kind"], told["phase"]) for told in (json.loads(text) for (text,) in texts)]
    assert words == [("cold", "given"), ("cold", "moving")]


def test_what_can_be_gone_back_to_stays_until_that_is_settled(store: Store) -> None:
    kept, done = record(), record(2, holds=False, phase=Phase.DISCARDING)
    for one in (kept, done):
        store.write(lambda tx, one=one: handshakes.put(tx, one))
    assert store.write(lambda tx: handshakes.age_out(tx, LATER)) == 1
    held = store.read(lambda tx: handshakes.held(tx, UUID))
    assert held is not None
    assert (held.migration_id, held.before) == (kept.migration_id, GUEST)
    store.write(lambda tx: handshakes.release(tx, kept.migration_id))
    assert store.read(lambda tx: handshakes.held(tx, UUID)) is None
    left = store.read(lambda tx: handshakes.find(tx, kept.migration_id))
    assert left is not None and left.before is None and left.instance is None
    assert store.write(lambda tx: handshakes.age_out(tx, LATER)) == 1


def test_a_copy_of_the_state_file_has_no_secrets_of_it(store: Store) -> None:
    store.write(lambda tx: handshakes.put(tx, record(data={"details": {"door": SECRET}})))
    store.write(rewound.brand)
    texts = store.read(lambda tx: tx.rows("SELECT record FROM handshakes"))
    assert len(texts) == 1
    assert SECRET not in str(texts)
