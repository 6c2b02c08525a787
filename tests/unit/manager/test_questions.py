# SPDX-License-Identifier: Apache-2.0
"""Answers: what they hold, what they are as of, and what they never do."""

import pytest

from compute_agent.model import errors
from compute_agent.model.questions import QUESTIONS
from compute_agent.virt.fake.hypervisor import Size
from tests.unit.house import House

NOBODY = "99999999-9999-4999-8999-999999999999"
NOT_HERE = ("interface_stats",)
"""Questions about what the instance of this test has not: an interface."""


@pytest.mark.parametrize("name", sorted(QUESTIONS))
def test_every_question_is_answered_and_says_as_of_when(house: House, name: str) -> None:
    uuid = house.spawn()
    operation = house.do("pause", instance_uuid=uuid)
    instance = {"uuid": uuid, "flavor": {"vcpus": 1, "memory_mb": 64}, "image": {"url": "file:///i/a"}}
    info = house.driver.get_all_info()[uuid]
    values = {
        "instance_uuid": uuid,
        "operation_id": operation.operation_id,
        "disk_id": "vda",
        "iface_id": "x",
        "instance": instance,
        "verb": "unpause",
        "arguments": {"instance_uuid": uuid},
    }
    wanted = {key: values[key] for key in QUESTIONS[name].__struct_fields__ if key in values}
    if name in ("list_operations", "get_events", "get_info"):
        wanted = {}
    if name == "list_operations":
        wanted = {"verb": "pause"}
    before = (house.path / "ledger").read_bytes()
    if name in NOT_HERE:
        with pytest.raises(errors.ComputeError):
            house.question(name, **wanted)
        return
    answer = house.question(name, **wanted)
    assert answer["as_of"]["host"] == "node-1"
    assert answer["as_of"]["seq"] > 0
    assert (house.path / "ledger").read_bytes() == before, "a question changes nothing"
    assert house.driver.get_all_info()[uuid].state == info.state


def test_an_unknown_question_and_wrong_arguments_are_typed(house: House) -> None:
    with pytest.raises(errors.UnknownVerb):
        house.question("what")
    with pytest.raises(errors.InvalidArguments):
        house.question("get_instance", instance_uuid="x")
    with pytest.raises(errors.InstanceNotFound):
        house.question("get_instance", instance_uuid="11111111-1111-4111-8111-111111111111")
    with pytest.raises(errors.OperationNotFound):
        house.question("get_operation", operation_id="11111111-1111-4111-8111-111111111111")


def test_lists_come_in_pages(house: House) -> None:
    uuids = sorted(house.spawn() for _ in range(5))
    seen, marker = [], None
    while True:
        answer = house.question("list_instances", limit=2, **({"marker": marker} if marker else {}))
        seen += [record["uuid"] for record in answer["instances"]]
        marker = answer["next_marker"]
        if marker is None:
            break
    assert seen == uuids
    newest = house.question("list_operations", limit=2)
    assert len(newest["operations"]) == 2
    rest = house.question("list_operations", limit=1000, marker=newest["next_marker"])
    assert len(rest["operations"]) == 3


def test_fields_can_be_chosen(house: House) -> None:
    house.spawn()
    (record,) = house.question("list_instances", fields=["state"])["instances"]
    assert set(record) == {"uuid", "state"}
    with pytest.raises(errors.InvalidArguments, match="colour"):
        house.question("list_instances", fields=["colour"])


def test_a_plan_names_the_steps_and_does_none(house: House) -> None:
    instance = {
        "uuid": "11111111-1111-4111-8111-111111111111",
        "flavor": {"vcpus": 1, "memory_mb": 64},
        "image": {"url": "file:///i/a"},
    }
    answer = house.question("plan", verb="spawn", arguments={"instance": instance})
    assert [step["step"] for step in answer["steps"]]
    assert answer["problems"] == []
    assert house.driver.get_all_info() == {}
    wrong = house.question(
        "plan", verb="unrescue", arguments={"instance_uuid": "1" * 8 + "-1111-4111-8111-" + "1" * 12}
    )
    assert [problem["code"] for problem in wrong["problems"]] == ["InstanceNotFound"]


def test_what_stands_against_a_verb_hides_none_of_its_steps_and_has_the_code_that_it_would_end_with(
    house: House,
) -> None:
    instance = {
        "uuid": "11111111-1111-4111-8111-111111111111",
        "flavor": {"vcpus": 1, "memory_mb": 64},
        "image": {"url": "file:///i/a"},
    }
    good = house.question("plan", verb="spawn", arguments={"instance": instance})
    house.driver.hypervisor.size = Size(vcpus=1, memory_mb=1024, local_gb=1)
    large = instance | {"flavor": {"vcpus": 1, "memory_mb": 4096}}
    bad = house.question("plan", verb="spawn", arguments={"instance": large})
    assert [step["step"] for step in bad["steps"]] == [step["step"] for step in good["steps"]]
    (problem,) = bad["problems"]
    ended = house.do("spawn", instance=large)
    assert ended.error is not None
    assert problem["code"] == ended.error.code == "InsufficientResources"
    for name in ("check_parameters", "validate_parameters"):
        told = house.question(name, instance=large)["problems"]
        assert all(problem["code"] == "InsufficientResources" for problem in told)


def test_a_verb_that_may_not_start_has_its_steps_in_a_plan(house: House) -> None:
    uuid = house.spawn()
    there = {"uuid": uuid, "flavor": {"vcpus": 1, "memory_mb": 64}, "image": {"url": "file:///i/a"}}
    for verb, arguments, code in (
        ("spawn", {"instance": there}, "InstanceExists"),
        ("unpause", {"instance_uuid": uuid, "if_revision": 999}, "PreconditionFailed"),
        ("destroy", {"instance_uuid": uuid, "if_revision": 999}, "PreconditionFailed"),
    ):
        planned = house.question("plan", verb=verb, arguments=arguments)
        assert [problem["code"] for problem in planned["problems"]] == [code]
        assert planned["steps"]
    enabling = house.question("plan", verb="set_host_enabled", arguments={"enabled": True})
    assert (enabling["problems"], len(enabling["steps"])) == ([], 1)
    nobody = house.question("plan", verb="destroy", arguments={"instance_uuid": NOBODY})
    assert (nobody["problems"], nobody["steps"]) == ([], [])


def test_explain_says_what_is_done_and_what_may_be_done(house: House) -> None:
    uuid = house.spawn()
    answer = house.question("explain", instance_uuid=uuid)
    assert answer["state"] == "active"
    assert {"pause", "power_off", "destroy"} <= set(answer["may_start"])
    assert "unpause" not in answer["may_start"]


def test_secrets_are_not_in_answers(house: House) -> None:
    url = "https://me:s3cret@images.example.org/a?signature=s3cret"
    uuid = house.spawn(user_data="czNjcmV0", image={"url": url, "headers": {"X": "s3cret"}})
    wanted = {"get_instance": {"instance_uuid": uuid}, "explain": {"instance_uuid": uuid}}
    for name in (
        "get_instance",
        "explain",
        "get_snapshot",
        "list_instances",
        "list_operations",
        "get_events",
    ):
        text = str(house.question(name, **wanted.get(name, {})))
        assert "czNjcmV0" not in text
        assert "s3cret" not in text
    assert "czNjcmV0" not in str(house.events())
    assert "s3cret" not in (house.path / "ledger").read_text()
