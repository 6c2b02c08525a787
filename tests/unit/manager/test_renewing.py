# SPDX-License-Identifier: Apache-2.0
"""Rescue and rebuild on the record: what fails leaves it as it was, unless something could not be undone."""

import uuid

import pytest

from compute_agent.model.states import InstanceState as S
from tests.unit.house import House

NEW = {"url": "file:///i/b"}
VERBS = {"rebuild": {"image": NEW}, "rescue": {}}


def off(house: House, uuid: str) -> None:
    assert house.do("power_off", instance_uuid=uuid, timeout=0).error is None


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("state", [S.ACTIVE, S.STOPPED])
def test_one_that_fails_early_leaves_the_instance_as_it_was(house: House, verb: str, state: S) -> None:
    uuid = house.spawn()
    if state is S.STOPPED:
        off(house, uuid)
    before = house.record(uuid).instance
    house.driver.faults.fail({"rebuild": "rebuild.image", "rescue": "rescue.disk"}[verb], times=1)
    assert house.do(verb, instance_uuid=uuid, **VERBS[verb]).error is not None
    record = house.record(uuid)
    assert (record.state, record.instance, record.error) == (state, before, None)


def test_a_rescue_that_fails_late_is_taken_back(house: House) -> None:
    uuid = house.spawn()
    house.driver.faults.fail("rescue.start", times=1)
    assert house.do("rescue", instance_uuid=uuid).error is not None
    assert house.record(uuid).state is S.ACTIVE
    assert house.driver.hypervisor.get(uuid).own_devices is None


@pytest.mark.parametrize(
    ("verb", "fails", "stays"),
    [("rebuild", "rebuild.define", "disks"), ("rescue", "rescue.start", "define")],
)
def test_what_could_not_be_undone_is_said_and_makes_it_unfit(
    house: House, verb: str, fails: str, stays: str
) -> None:
    uuid = house.spawn()
    house.driver.faults.fail(fails, times=1)
    house.driver.faults.fail("rescue.define.undo")
    error = house.do(verb, instance_uuid=uuid, **VERBS[verb]).error
    assert error is not None and error.hint is not None
    assert f"not undone: {stays}" in error.hint
    assert house.record(uuid).state is S.ERROR
    assert house.do(verb, instance_uuid=uuid, **VERBS[verb]).error is None
    assert house.record(uuid).state is {"rebuild": S.ACTIVE, "rescue": S.RESCUED}[verb]


def test_a_rebuilt_instance_has_its_new_image_on_record_and_in_its_description(house: House) -> None:
    uuid = house.spawn(metadata={"a": "b"})
    assert house.do("rebuild", instance_uuid=uuid, image=NEW).error is None
    record = house.record(uuid)
    assert record.instance.image is not None
    assert (record.instance.image.url, record.instance.metadata) == (NEW["url"], {"a": "b"})
    described = house.driver.get_description(uuid)
    assert described is not None and described.instance is not None
    assert described.instance.image == record.instance.image


def test_a_rescued_instance_is_still_rescued_when_the_state_file_was_lost(house: House) -> None:
    uuid = house.spawn()
    assert house.do("rescue", instance_uuid=uuid).error is None
    house.stop()
    for path in (house.path / "state").glob("state.db*"):
        path.unlink()
    house.start()
    assert house.record(uuid).state is S.RESCUED
    assert house.do("unrescue", instance_uuid=uuid).error is None
    assert house.record(uuid).state is S.ACTIVE


def test_an_evacuation_needs_the_word_that_the_old_host_is_off(house: House) -> None:
    named = str(uuid.uuid4())
    instance = {"uuid": named, "flavor": {"vcpus": 1, "memory_mb": 64}, "image": NEW}
    wanted = {"instance": instance, "disks": "recreate"}
    error = house.do("evacuate", fenced=False, **wanted).error
    assert error is not None and error.code == "PreconditionFailed"
    assert house.do("evacuate", fenced=True, **wanted).error is None
    assert house.record(named).state is S.ACTIVE


def test_an_evacuation_takes_over_disks_that_are_there_or_says_that_there_are_none(house: House) -> None:
    named = str(uuid.uuid4())
    instance = {"uuid": named, "flavor": {"vcpus": 1, "memory_mb": 64}, "image": NEW}
    wanted = {"disks": "reuse", "fenced": True}
    error = house.do("evacuate", instance=instance, **wanted).error
    assert error is not None and error.code == "PreconditionFailed"
    house.spawn(uuid=named, generation=1)
    assert house.do("destroy", instance_uuid=named, destroy_disks=False).error is None
    assert house.do("evacuate", instance=instance | {"generation": 2}, **wanted).error is None
    assert house.record(named).state is S.ACTIVE
