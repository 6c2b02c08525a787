# SPDX-License-Identifier: Apache-2.0
"""Names come from the uuid, and none leaves its directory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute_agent.model import errors
from compute_agent.virt.libvirt.paths import InstancePaths, is_instance_directory, safe_join, tap_name

UUID = "5f0c1a9e-26f0-4d1b-9d5e-0c8d1f2a3b4c"
STRANGE = ["", ".", "..", "a/b", "/a", "../a", "a\x00b", "a\nb", "a\n", "-a", ".a", "a b", "ä", "a" * 200]


def test_everything_is_below_the_instances_directory() -> None:
    paths = InstancePaths("/srv/instances", UUID)
    assert paths.directory == f"/srv/instances/{UUID}"
    for path in (paths.disk, paths.console_log, paths.config_drive, paths.owner, paths.ephemeral(3)):
        assert path.startswith(paths.directory + "/")


@pytest.mark.parametrize("name", STRANGE)
def test_a_strange_file_name_is_refused(name: str) -> None:
    with pytest.raises(errors.InvalidArguments):
        safe_join("/srv", name)
    with pytest.raises(errors.InvalidArguments):
        InstancePaths("/srv", UUID).file(name)


@pytest.mark.parametrize("uuid", [*STRANGE, UUID.upper(), UUID + "\n", f"../{UUID}", UUID.replace("-", "")])
def test_what_is_no_uuid_is_refused(uuid: str) -> None:
    with pytest.raises(errors.InvalidArguments):
        InstancePaths("/srv", uuid)
    assert not is_instance_directory(uuid)


def test_a_relative_instances_directory_is_refused() -> None:
    with pytest.raises(errors.InvalidArguments):
        InstancePaths("instances", UUID)


def test_a_tap_is_named_after_its_vifs_uuid_as_in_openstack() -> None:
    assert tap_name(UUID) == "tap5f0c1a9e-26"


def test_vifs_that_were_made_together_have_taps_of_their_own() -> None:
    ids = [f"0193f2a1-7c3e-7{number:03x}-8abc-0123456789ab" for number in range(100)]
    assert len({tap_name(vif_id) for vif_id in ids}) == 100


@given(st.text(alphabet="abcXYZ019._:-", min_size=1, max_size=255))
def test_a_tap_name_is_one_that_the_kernel_takes(vif_id: str) -> None:
    name = tap_name(vif_id)
    assert len(name) <= 15
    assert name == tap_name(vif_id)
    assert name.replace("-", "").isalnum()


def test_vifs_whose_ids_begin_alike_have_taps_of_their_own() -> None:
    assert len({tap_name(f"a-common-beginning-{number}") for number in range(100)}) == 100
