# SPDX-License-Identifier: Apache-2.0
"""Two hosts with a libvirtd each, on one machine."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator

import pytest

from compute_agent import failpoints
from compute_agent.conf import CONF
from tests.functional.coldmigration.hosts import Host, Pair
from tests.rig import scratch
from tests.rig.hypervisor import Hypervisor


@pytest.fixture(scope="session")
def second_hypervisor(rig: Callable[[Hypervisor], Hypervisor]) -> Hypervisor:
    """Another libvirtd."""
    return rig(Hypervisor())


@pytest.fixture
def pair(fresh_hypervisor: Hypervisor, second_hypervisor: Hypervisor) -> Iterator[Callable[..., Pair]]:
    """Make two hosts; `shared`: with one storage of the instances, and of the keys."""
    CONF([], project="compute-agent", default_config_files=[], default_config_dirs=[])
    directory = scratch.make()
    made: list[Pair] = []

    def make(*, shared: bool = False) -> Pair:
        storage = directory / "shared"
        places = [storage if shared else directory / f"{name}-instances" for name in ("one", "other")]
        one = Host("one", fresh_hypervisor, directory, pathlib.Path(places[0]))
        other = Host("other", second_hypervisor, directory, pathlib.Path(places[1]))
        made.append(Pair(one, other))
        return made[-1]

    before = second_hypervisor.domains()
    yield make
    failpoints.arm("")
    for each in made:
        each.close()
    second_hypervisor.ensure()
    second_hypervisor.destroy_all(but=before)
    scratch.remove(directory)
