# SPDX-License-Identifier: Apache-2.0
"""Keys of encrypted disks are made once, kept from others, and go with the disks."""

import os
import pathlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import libvirt
import msgspec
import pytest

from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.virt.libvirt import fencing, files, keys, local_disks
from compute_agent.virt.libvirt.facts import Settings
from compute_agent.virt.libvirt.host import Host
from compute_agent.virt.libvirt.paths import InstancePaths

UUID = "5f0c1a9e-26f0-4d1b-9d5e-0c8d1f2a3b4c"


@pytest.fixture
def directory(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    CONF([], project="compute-agent", default_config_files=[], default_config_dirs=[])
    CONF.set_override("key_directory", str(tmp_path / "keys"), "ephemeral_storage_encryption")
    yield tmp_path / "keys"
    CONF.clear_override("key_directory", "ephemeral_storage_encryption")


def test_a_key_is_the_schedulers_or_a_new_one_and_only_its_owner_may_read_it(directory: pathlib.Path) -> None:
    keys.make(UUID, {"disk": "given", "disk.swap": None})
    found = keys.of(UUID)
    assert found["disk"] == b"given"
    assert len(found["disk.swap"]) == 64
    assert sorted(os.listdir(directory / UUID)) == ["disk", "disk.swap"]
    for path in (directory / UUID, directory / UUID / "disk"):
        assert path.stat().st_mode & 0o077 == 0


def test_a_key_that_is_there_is_never_changed(directory: pathlib.Path) -> None:
    keys.make(UUID, {"disk": None})
    before = keys.of(UUID)
    keys.make(UUID, {"disk": None, "disk.eph0": None})
    keys.make(UUID, {"disk": "another"})
    assert keys.of(UUID)["disk"] == before["disk"]


def test_a_half_written_key_is_none(directory: pathlib.Path) -> None:
    keys.make(UUID, {"disk": None})
    (directory / UUID / "disk.swap.0123456789ab.part").write_text("half")
    assert keys.of(UUID).keys() == {"disk"}


def test_keys_go_with_the_disks_and_stay_where_the_disks_do(
    directory: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    paths = InstancePaths(str(tmp_path / "instances"), UUID)
    keys.make(UUID, {"disk": None})
    files.make_directory(paths, files.Owner(host="another", generation=1, operation_id="one"))
    with pytest.raises(errors.WrongHost):
        fencing.remove(paths)
    assert keys.of(UUID)
    files.make_directory(paths, fencing.owner(1, "one"))
    assert fencing.remove(paths)
    assert keys.of(UUID) == {}
    assert not fencing.remove(paths)


def encrypted(**device: Any) -> Instance:
    root = {"source_type": "image", "boot_index": 0, **device}
    flavor = {"vcpus": 1, "memory_mb": 64, "extra_specs": {"hw:ephemeral_encryption": "true"}}
    plain = {"uuid": UUID, "flavor": flavor, "image": {"url": "file:///x"}, "block_device_mapping": [root]}
    return msgspec.convert(plain, Instance)


def test_a_guest_whose_key_is_not_on_this_host_opens_with_what_the_scheduler_said(
    directory: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    paths, told = InstancePaths(str(tmp_path), UUID), encrypted(encryption={"passphrase": "told"})
    files.prepare_directory(paths)
    local_disks.note(paths, local_disks.wanted(told, Settings()))
    with pytest.raises(errors.InvalidState, match="disk"):
        local_disks.keys_of(encrypted(), paths)
    assert local_disks.keys_of(told, paths) == {"disk": b"told"}
    assert local_disks.keys_of(encrypted(), paths) == {"disk": b"told"}, "it is kept from now on"


def test_an_instance_without_keys_asks_nothing_of_libvirt(directory: pathlib.Path) -> None:
    host = mock.create_autospec(Host, instance=True)
    with keys.given(host, UUID, keys.of(UUID)):
        pass
    assert host.mock_calls == []


def test_libvirt_gets_a_secret_that_it_neither_shows_nor_writes_to_disk(directory: pathlib.Path) -> None:
    connection = mock.create_autospec(libvirt.virConnect, instance=True)
    keys.give(connection, UUID, {"disk": b"the key"})
    (xml,) = connection.secretDefineXML.call_args.args
    assert 'ephemeral="yes"' in xml and 'private="yes"' in xml
    assert keys.secret_uuid(UUID, "disk") in xml
    assert "the key" not in xml
    connection.secretDefineXML.return_value.setValue.assert_called_once_with(b"the key")


def test_a_directory_that_is_nobodys_and_holds_no_disk_is_free(tmp_path: pathlib.Path) -> None:
    paths = InstancePaths(str(tmp_path), UUID)
    files.prepare_directory(paths)
    for name in ("disk.info", "owner.new"):
        pathlib.Path(paths.file(name)).touch()
    assert files.is_free(paths)
    pathlib.Path(paths.disk).touch()
    assert not files.is_free(paths)


def test_files_from_before_a_boot_of_the_host_are_known(
    tmp_path: pathlib.Path, directory: pathlib.Path
) -> None:
    paths = InstancePaths(str(tmp_path), UUID)
    files.make_directory(paths, fencing.owner(1, "one"))
    assert not fencing.is_from_before_boot(paths)
    files.make_directory(paths, files.Owner(host="here", generation=1, operation_id="one", boot_id="earlier"))
    assert fencing.is_from_before_boot(paths)
    files.make_directory(paths, files.Owner(host="here", generation=1, operation_id="one"))
    assert not fencing.is_from_before_boot(paths), "an earlier release did not say"
