# SPDX-License-Identifier: Apache-2.0
"""Whose the files of an instance are, where several hosts see them."""

import os
import pathlib
from collections.abc import Iterator

import pytest

from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.virt.libvirt import fencing, files
from compute_agent.virt.libvirt.paths import InstancePaths

UUID = "6a9cc7a4-1b4e-4d3c-8f5e-0d7b2f6a1c11"


@pytest.fixture
def paths(tmp_path: pathlib.Path) -> Iterator[InstancePaths]:
    CONF([], project="compute-agent", default_config_files=[], default_config_dirs=[])
    CONF.set_override("host_name", "here")
    yield InstancePaths(str(tmp_path / "instances"), UUID)
    CONF.clear_override("host_name")


def belong(paths: InstancePaths, host: str = "here", generation: int = 3) -> None:
    files.make_directory(paths, files.Owner(host=host, generation=generation, operation_id="one"))


def test_nobody_has_a_claim_where_there_is_no_note(paths: InstancePaths) -> None:
    fencing.check(paths, 0)
    os.makedirs(paths.directory)
    assert fencing.remove(paths, 0)


@pytest.mark.parametrize("generation", [3, 4, None])
def test_our_own_files_are_removed(paths: InstancePaths, generation: int | None) -> None:
    belong(paths)
    assert fencing.remove(paths, generation)
    assert not os.path.exists(paths.directory)


@pytest.mark.parametrize(
    ("host", "generation", "ours", "refusal"),
    [
        ("elsewhere", 3, 3, errors.WrongHost),
        ("elsewhere", 1, 3, errors.WrongHost),
        ("elsewhere", 3, None, errors.WrongHost),
        ("here", 4, 3, errors.StaleGeneration),
    ],
)
def test_files_of_others_and_of_a_later_placement_stay(
    paths: InstancePaths, host: str, generation: int, ours: int | None, refusal: type[errors.ComputeError]
) -> None:
    belong(paths, host, generation)
    for act in (fencing.check, fencing.remove):
        with pytest.raises(refusal):
            act(paths, ours)
    assert os.path.exists(paths.directory)


def test_files_stay_if_whose_they_are_can_not_be_told(paths: InstancePaths) -> None:
    belong(paths)
    pathlib.Path(paths.owner).write_bytes(b"")
    with pytest.raises(errors.InvalidState):
        fencing.remove(paths, 3)
    assert os.path.exists(paths.directory)
    assert not fencing.is_anothers(paths)


def test_a_placement_here_again_takes_the_files_over(paths: InstancePaths) -> None:
    belong(paths)
    fencing.raise_generation(paths, 5)
    with pytest.raises(errors.StaleGeneration):
        fencing.check(paths, 4)
    fencing.raise_generation(paths, 5)
    with pytest.raises(errors.StaleGeneration):
        fencing.raise_generation(paths, 4)
    owner = files.read_owner(paths)
    assert owner is not None
    assert (owner.generation, owner.operation_id) == (5, "one")
