# SPDX-License-Identifier: Apache-2.0
"""Answers as text."""

from __future__ import annotations

from compute_agent.cmd.client import output
from compute_agent.model import errors


def test_single_values_are_aligned_and_nested_ones_named_by_their_way() -> None:
    answer = {"pong": True, "now": "today", "load": {"one": 4}, "away": None, "none": [], "as_of": {"seq": 1}}
    assert list(output.answer(answer)) == ["pong      yes", "now       today", "load.one  4"]


def test_a_list_of_records_is_a_table_of_its_chosen_columns() -> None:
    record = {"uuid": "u-1", "instance": {"name": "web"}, "state": "active", "power_state": 1, "secret": "no"}
    lines = list(output.answer({"instances": [record, {**record, "uuid": "u-22"}]}))
    assert lines == [
        "UUID  INSTANCE.NAME  STATE   POWER_STATE",
        "u-1   web            active  running",
        "u-22  web            active  running",
    ]


def test_a_list_of_anything_else_shows_all_it_has() -> None:
    lines = list(output.answer({"orphans": [{"kind": "domain", "id": "a"}, {"kind": "disk", "bytes": 3}]}))
    assert lines == ["KIND    ID  BYTES", "domain  a   -", "disk    -   3"]


def test_an_empty_list_is_told() -> None:
    assert list(output.answer({"instances": [], "next_marker": None})) == ["no instances"]
    assert list(output.answer({"problems": []})) == ["no problems"]


def test_several_lists_have_titles() -> None:
    lines = list(output.answer({"doing": [], "recent": [{"verb": "pause", "state": "failed"}]}))
    assert lines == ["doing: none", "recent:", "VERB   STATE", "pause  failed"]


def test_lists_in_lists_stay_apart() -> None:
    assert output.cell([["x86_64", "kvm"], ["i686", "kvm"]]) == "x86_64/kvm, i686/kvm"


def test_lines_fit_the_terminal() -> None:
    lines = list(output.table([["a" * 50, "b" * 50]], ("one", "two"), columns=40))
    assert max(len(line) for line in lines) == 40


def test_nothing_steers_the_terminal() -> None:
    hostile = "\x1b[31mred\x07\u202e\r"
    for text in (
        output.cell(hostile),
        *output.answer({hostile: hostile, "instances": [{"uuid": hostile}], "output": hostile}),
        *output.error(errors.Error(code="Internal", message=hostile, hint=hostile, evidence=hostile)),
    ):
        assert text.isprintable()


def test_an_error_tells_all_it_knows() -> None:
    problem = errors.HostBusy("too many", step="admit", retry_after_s=5.0, evidence="a\nb").to_error()
    assert list(output.error(problem)) == [
        "HostBusy: too many",
        "  step: admit",
        "  try again after 5 s",
        "  hint: try again later, or another host",
        "  evidence:",
        "    a",
        "    b",
    ]


def test_the_report_of_a_drain_has_a_line_for_each_guest() -> None:
    blocked = {"code": "InvalidState", "message": "it is rescued", "step": None, "hint": "unrescue it"}
    guests = [
        {"instance_uuid": "u-1", "name": "web", "standing": "moved", "dest": "node-2", "operation_id": "o-1"},
        {"instance_uuid": "u-2", "name": "db", "standing": "blocked", "error": blocked},
    ]
    lines = list(output.answer({"state": "failed", "result": {"total": 2, "guests": guests}}))
    assert [line.split() for line in lines[:2]] == [["state", "failed"], ["result.total", "2"]]
    assert lines[2].split()[:5] == ["INSTANCE_UUID", "NAME", "STANDING", "DEST", "ERROR.CODE"]
    rows = [line.split()[:4] for line in lines[3:]]
    assert rows == [["u-1", "web", "moved", "node-2"], ["u-2", "db", "blocked", "-"]]
