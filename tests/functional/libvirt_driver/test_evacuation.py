# SPDX-License-Identifier: Apache-2.0
"""Evacuation of a real guest, on disks that both hosts see, and the old host that comes back."""

from collections.abc import Callable, Iterator

import msgspec
import pytest

from compute_agent import failpoints
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.model.states import PowerState
from compute_agent.virt.libvirt.evacuation import Evacuation
from compute_agent.virt.libvirt.files import Owner
from tests.functional.libvirt_driver.conftest import Watched

HERE, LOST = "node-here", "node-lost"
STEPS = ["check", "owner", "define", "start"]
EACH = [pytest.param(step, marks=[] if step in ("owner", "start") else pytest.mark.long) for step in STEPS]


@pytest.fixture
def on_host() -> Iterator[Callable[[str], None]]:
    """Be the agent of the host with that name: both have the same storage."""
    yield lambda name: CONF.set_override("host_name", name)
    CONF.clear_override("host_name")


def lost(watched: Watched, on_host: Callable[[str], None]) -> Instance:
    """An instance whose host has gone, and left its files; placed anew, on this host."""
    on_host(LOST)
    instance = watched.spawned(generation=1)
    with watched.guest(instance).domain() as domain:
        domain.destroy()
        domain.undefine()
    on_host(HERE)
    watched.wait(lambda: watched.heard, "the end of the old guest")
    watched.heard.clear()
    return msgspec.structs.replace(instance, generation=2)


def evacuate(watched: Watched, instance: Instance, *, reuse: bool = True) -> None:
    image = None if reuse else instance.image
    watched.driver.rebuild(
        None, instance, image, [], None, None, [], None, None, [], recreate=True, preserve_ephemeral=reuse
    )


def owner(watched: Watched, instance: Instance) -> tuple[str, int]:
    found = msgspec.json.decode((watched.directory(instance) / "owner").read_bytes(), type=Owner)
    return found.host, found.generation


def test_an_evacuated_guest_runs_here_on_its_own_disks(
    watched: Watched, on_host: Callable[[str], None]
) -> None:
    instance = lost(watched, on_host)
    disk = (watched.directory(instance) / "disk").stat().st_ino
    with watched.operation("evacuate"):
        evacuate(watched, instance)
    assert watched.told(instance) == ["started"]
    assert watched.state(instance) is PowerState.RUNNING
    assert (watched.directory(instance) / "disk").stat().st_ino == disk
    assert owner(watched, instance) == (HERE, 2)


def test_the_old_host_harms_nothing_when_it_comes_back(
    watched: Watched, on_host: Callable[[str], None]
) -> None:
    instance = lost(watched, on_host)
    evacuate(watched, instance)
    watched.driver.power_off(instance)
    on_host(LOST)
    old = msgspec.structs.replace(instance, generation=1)
    with pytest.raises(errors.WrongHost):
        watched.driver.power_on(None, old, [])
    assert not watched.driver.delete_instance_files(old)
    assert (watched.directory(instance) / "disk").exists()
    on_host(HERE)
    watched.driver.power_on(None, instance, [])
    assert watched.state(instance) is PowerState.RUNNING


@pytest.mark.parametrize("step", EACH)
def test_an_evacuation_that_fails_gives_the_disks_back(
    watched: Watched, on_host: Callable[[str], None], step: str
) -> None:
    instance = lost(watched, on_host)
    before = {path.name for path in watched.directory(instance).iterdir()}
    failpoints.arm(f"evacuate.{step}.after=raise:HypervisorError")
    with watched.operation("evacuate") as work, pytest.raises(errors.HypervisorError):
        evacuate(watched, instance)
    assert work.left_behind == []
    assert watched.left_of(instance) == [instance.uuid]
    assert owner(watched, instance) == (LOST, 1)
    assert {path.name for path in watched.directory(instance).iterdir()} == before


@pytest.mark.parametrize("step", EACH)
def test_an_interrupted_evacuation_is_finished_by_the_next_attempt(
    watched: Watched, on_host: Callable[[str], None], step: str
) -> None:
    instance = lost(watched, on_host)
    with watched.operation("evacuate") as work:
        parts = Evacuation(watched.driver, instance, instance.image, [], {}).steps()
        for part in parts[: STEPS.index(step) + 1]:
            part.do()
    with watched.operation("evacuate", operation_id=work.operation_id, attempts=2):
        evacuate(watched, instance)
    assert watched.told(instance) == ["started"]
    assert owner(watched, instance) == (HERE, 2)


def test_disks_of_a_later_placement_are_not_taken(watched: Watched, on_host: Callable[[str], None]) -> None:
    instance = lost(watched, on_host)
    with pytest.raises(errors.StaleGeneration):
        evacuate(watched, msgspec.structs.replace(instance, generation=1))
    assert owner(watched, instance) == (LOST, 1)


def test_disks_that_this_host_does_not_see_are_not_reused(
    watched: Watched, on_host: Callable[[str], None]
) -> None:
    instance = lost(watched, on_host)
    (watched.directory(instance) / "disk").unlink()
    with pytest.raises(errors.PreconditionFailed):
        evacuate(watched, instance)
    with pytest.raises(errors.PreconditionFailed):
        evacuate(watched, watched.instance(generation=1))


def test_without_shared_disks_they_are_made_from_the_image(
    watched: Watched, on_host: Callable[[str], None]
) -> None:
    on_host(HERE)
    instance = watched.instance(generation=2)
    evacuate(watched, instance, reuse=False)
    assert watched.told(instance) == ["started"]
    assert owner(watched, instance) == (HERE, 2)
