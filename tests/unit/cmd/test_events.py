# SPDX-License-Identifier: Apache-2.0
"""``events`` and ``top``."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from compute_agent.cmd.client import events
from compute_agent.rpc.client import NoAnswer
from tests.unit.cmd.conftest import AS_OF, OPERATION, UUID, FakeApi, Run, operation


def event(seq: int, kind: str = "instance.lifecycle.started", **more: Any) -> dict[str, Any]:
    return {
        "seq": seq,
        "type": kind,
        "occurred_at": "2026-11-21T10:15:00.000000Z",
        "instance_uuid": UUID,
        "cause": "guest",
        "data": {},
        **more,
    }


def page(
    *found: dict[str, Any], since: int, gap: dict[str, Any] | None = None, **as_of: Any
) -> dict[str, Any]:
    return {"events": list(found), "gap": gap, "next_since": since, "as_of": {**AS_OF, **as_of}}


@pytest.fixture(autouse=True)
def _no_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events.time, "sleep", lambda _seconds: None)


def since(api: FakeApi) -> list[int]:
    """After which event each page was asked for."""
    return [arguments["since"] for _, name, arguments in api.asked if name == "get_events"]


def test_the_latest_events_are_shown(run: Callable[..., Run], api: FakeApi) -> None:
    api.answers["get_events"] = [page(event(40), event(41), since=41), page(since=41)]
    done = run("events")
    assert done.status == 0
    assert since(api) == [21, 41]
    assert [line.split()[0] for line in done.out.splitlines()] == ["40", "41"]
    assert f"instance={UUID}" in done.out


def test_what_is_chosen_is_asked_for(run: Callable[..., Run], api: FakeApi) -> None:
    api.answers["get_events"] = [page(since=7)]
    run("events", "--since", "7", "--type", "operation.f*,host.report,of.tomorrow", "--instance", UUID)
    arguments = api.asked[1][2]
    assert arguments["types"] == ["operation.failed", "host.report", "of.tomorrow"]
    assert (arguments["since"], arguments["instance_uuid"], arguments["epoch"]) == (7, UUID, AS_OF["epoch"])


def test_following_begins_now_survives_an_absence_and_ends_with_ctrl_c(
    run: Callable[..., Run], api: FakeApi
) -> None:
    api.answers["get_events"] = [
        page(since=41),
        NoAnswer("node-1 did not answer"),
        NoAnswer("node-1 did not answer"),
        page(event(42), since=42),
        KeyboardInterrupt(),
    ]
    done = run("events", "--follow", "--format", "json")
    assert done.status == 0
    assert since(api) == [41, 41, 41, 41, 42]
    assert json.loads(done.out)["seq"] == 42
    assert done.err.count("NoAnswer") == 1
    assert "answers again" in done.err


def test_an_absence_at_the_beginning_is_an_error(run: Callable[..., Run], api: FakeApi) -> None:
    api.answers["get_events"] = NoAnswer("node-1 did not answer")
    assert run("events", "--follow").status == 1


def test_a_gap_is_told_and_passed(run: Callable[..., Run], api: FakeApi) -> None:
    api.answers["get_events"] = [
        page(since=0, gap={"reason": "retention", "oldest": 30}),
        page(event(30), since=30),
        page(since=41),
    ]
    done = run("events", "--since", "0")
    assert since(api) == [0, 29, 30]
    assert "gap (retention): events after 0" in done.out


def test_a_new_epoch_is_read_from_its_beginning(run: Callable[..., Run], api: FakeApi) -> None:
    api.answers["get_events"] = [
        page(since=9, gap={"reason": "epoch"}, epoch=OPERATION),
        page(event(1), since=1, epoch=OPERATION),
        page(since=1, epoch=OPERATION),
    ]
    done = run("events", "--since", "9", "--format", "json")
    assert [json.loads(line)["type"] for line in done.out.splitlines()] == [
        "gap",
        "instance.lifecycle.started",
    ]
    assert api.asked[2][2]["epoch"] == OPERATION
    assert since(api) == [9, 0, 1]


def test_an_error_stands_in_its_events_line() -> None:
    failed = event(
        5, "operation.failed", data={"verb": "spawn", "error": {"code": "DiskFull", "message": "no"}}
    )
    assert events.line(failed).endswith("verb=spawn  error=DiskFull: no")


def test_watching_all_operations_is_following_their_events(run: Callable[..., Run], api: FakeApi) -> None:
    api.answers["get_events"] = [KeyboardInterrupt()]
    assert run("operations", "watch").status == 0
    assert all(kind.startswith("operation.") for kind in api.asked[1][2]["types"])


# --- top -------------------------------------------------------------------------------------------

SNAPSHOT = {
    "instances": [
        {
            "uuid": UUID,
            "state": "active",
            "power_state": 1,
            "generation": 3,
            "instance": {"name": "web\x1b[2J", "flavor": {"vcpus": 2, "memory_mb": 256}},
        }
    ],
    "operations": [operation("running", step="fetch")],
    "reasons": {"operator": "repairs"},
    "resources": {"vcpus": 8, "vcpus_used": 2, "memory_mb": 1024, "memory_mb_used": 256},
    "as_of": AS_OF,
}


def test_the_host_at_a_glance(run: Callable[..., Run], api: FakeApi) -> None:
    api.answers["ping"] = {"uptime_s": 90061.0, "now": "2026-11-21T10:15:00.000000Z", "as_of": AS_OF}
    api.answers["get_snapshot"] = SNAPSHOT
    done = run("top", "--once")
    assert done.status == 0
    for text in (
        "node-1",
        "up 1 d 1:01:01",
        "vcpus [###.........] 2/8",
        "memory [###.........] 256/1024 MiB",
        "disabled (operator: repairs)",
        "1 operations under way",
        "pause  running  fetch",
        "1 instances: 1 active",
        "running",
    ):
        assert text in done.out
    assert "\x1b" not in done.out


def test_the_host_at_a_glance_as_data(run: Callable[..., Run], api: FakeApi) -> None:
    api.answers["get_snapshot"] = SNAPSHOT
    assert run("top", "--once", "--format", "json").json["resources"]["vcpus"] == 8
