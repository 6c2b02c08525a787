# SPDX-License-Identifier: Apache-2.0
"""Volumes that os-brick connects, with a library in its place that has its functions and their arguments."""

from __future__ import annotations

import pathlib
import stat
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

import msgspec
import pytest

from compute_agent import concurrency
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.virt.libvirt.base import LibvirtBase
from compute_agent.virt.libvirt.host import Host
from compute_agent.virt.libvirt.paths import InstancePaths
from compute_agent.virt.libvirt.volumes import brick, reach

DATA = {"target_wwn": ["50014380186b3f65"], "target_lun": 1}


class Connector:
    """As os-brick's connectors."""

    def connect_volume(self, connection_properties: dict[str, Any]) -> dict[str, str] | None: ...

    def disconnect_volume(
        self,
        connection_properties: dict[str, Any],
        device_info: dict[str, str] | None,
        force: bool = False,
        ignore_errors: bool = False,
    ) -> None: ...

    def extend_volume(self, connection_properties: dict[str, Any]) -> int | None: ...


def factory(
    protocol: str, root_helper: str, driver: Any = None, use_multipath: bool = False
) -> Connector: ...


def get_connector_properties(
    root_helper: str, my_ip: str, multipath: bool, enforce_multipath: bool, host: str | None = None
) -> Mapping[str, Any]: ...


def set_defaults(lock_path: str) -> None:
    """As oslo.concurrency has it."""


def setup(conf: Any) -> None:
    """As os-brick has it."""


def set_client_mode(enabled: bool) -> None:
    """As oslo.privsep's contexts have it."""


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """os-brick, installed."""
    parts = ("os_brick", "os_brick.initiator", "os_brick.initiator.connector", "os_brick.privileged")
    modules: dict[str, Any] = {name: types.ModuleType(name) for name in parts}
    modules["oslo_concurrency.lockutils"] = types.ModuleType("lockutils")
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    found = modules["os_brick.initiator.connector"]
    found.connector = mock.create_autospec(Connector, instance=True)
    made = mock.create_autospec(factory, return_value=found.connector)
    found.InitiatorConnector = types.SimpleNamespace(factory=made)
    found.get_connector_properties = mock.create_autospec(
        get_connector_properties, return_value={"wwpns": ["a"]}
    )
    found.set_lock_path = modules["oslo_concurrency.lockutils"].set_defaults = mock.create_autospec(
        set_defaults
    )
    found.setup = modules["os_brick"].setup = mock.create_autospec(setup)
    found.client_mode = mock.create_autospec(set_client_mode)
    modules["os_brick.privileged"].default = types.SimpleNamespace(set_client_mode=found.client_mode)
    brick._set_up.cache_clear()
    yield found
    brick._set_up.cache_clear()


@pytest.fixture
def device(paths: InstancePaths, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """What stands for a block device: no test may make a real one."""
    made = tmp_path / "sdx"
    made.touch()
    (tmp_path / "by-id").symlink_to(made)
    pathlib.Path(paths.directory).mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(stat, "S_ISBLK", lambda mode: bool(stat.S_ISREG(mode)))
    return made


@pytest.fixture
def paths(tmp_path: pathlib.Path) -> InstancePaths:
    return InstancePaths(str(tmp_path / "instances"), "5f0c1a9e-26f0-4d1b-9d5e-0c8d1f2a3b4c")


def test_a_volume_is_connected_again_and_again_and_shows_under_one_name(
    library: Any, paths: InstancePaths, device: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    library.connector.connect_volume.return_value = {"type": "block", "path": str(tmp_path / "by-id")}
    link = pathlib.Path(brick.read("fibre_channel", paths, "vol").path or "")
    for _ in range(2):
        brick.connect("fibre_channel", DATA, paths, "vol")
        assert link.resolve() == device
    brick.disconnect("fibre_channel", DATA, paths, "vol")
    assert not link.is_symlink()
    assert [path.name for path in pathlib.Path(paths.directory).iterdir()] == []


def test_where_locks_are_is_said_once_and_root_needs_no_helper(library: Any) -> None:
    brick.properties("host")
    brick.properties("host")
    library.set_lock_path.assert_called_once_with(f"{CONF.state_path}/locks")
    library.setup.assert_called_once_with(CONF)
    library.client_mode.assert_called_once_with(False)


@pytest.mark.parametrize("answer", [RuntimeError("no path"), None, {"path": "/nonexistent"}])
def test_what_can_not_be_connected_is_typed_and_leaves_no_link(
    library: Any, paths: InstancePaths, device: pathlib.Path, answer: Any
) -> None:
    library.connector.connect_volume.side_effect = [answer]
    with pytest.raises(errors.VolumeUnavailable):
        brick.connect("nvmeof", DATA, paths, "vol")
    assert list(pathlib.Path(paths.directory).iterdir()) == []


def test_what_can_not_be_disconnected_keeps_its_link_and_what_is_not_connected_is_success(
    library: Any, paths: InstancePaths, device: pathlib.Path
) -> None:
    library.connector.connect_volume.return_value = {"path": str(device)}
    brick.connect("fibre_channel", DATA, paths, "vol")
    library.connector.disconnect_volume.side_effect = RuntimeError("in use")
    with pytest.raises(errors.VolumeUnavailable):
        brick.disconnect("fibre_channel", DATA, paths, "vol")
    assert pathlib.Path(brick.link(paths, "vol")).is_symlink()
    brick.disconnect("fibre_channel", DATA, paths, "another")


def test_a_new_size_is_told_by_the_library(library: Any) -> None:
    library.connector.extend_volume.return_value = 2**30
    assert brick.extend("fibre_channel", DATA) == 2**30
    library.connector.extend_volume.side_effect = RuntimeError("rescan")
    with pytest.raises(errors.VolumeUnavailable):
        brick.extend("fibre_channel", DATA)


def test_the_host_is_described_by_the_library_if_it_is_there(
    library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert brick.properties("host") == {"wwpns": ["a"]}
    monkeypatch.setitem(sys.modules, "os_brick.initiator.connector", None)
    assert brick.properties("host") is None


def test_a_guest_that_starts_has_its_volume_connected_again(
    library: Any, paths: InstancePaths, device: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """After a boot of the host its link leads to what may be another's device by now."""
    link = pathlib.Path(brick.link(paths, "vol"))
    link.symlink_to("/dev/of-another")
    library.connector.connect_volume.return_value = {"path": str(device)}
    info = {"driver_volume_type": "fibre_channel", "data": DATA}
    mapped = {"source_type": "volume", "volume_id": "vol", "connection_info": info}
    given = {"uuid": paths.uuid, "flavor": {"vcpus": 1, "memory_mb": 1}, "block_device_mapping": [mapped]}
    driver = mock.create_autospec(LibvirtBase, instance=True)
    driver._host = mock.create_autospec(Host, instance=True)
    driver._file_threads = mock.create_autospec(concurrency.NativePool, instance=True)
    driver._host.ask_guest.return_value = (
        f"<domain><devices><disk type='block' device='disk'><source dev='{link}'/>"
        "<target dev='vdb' bus='virtio'/><serial>vol</serial></disk></devices></domain>"
    )
    driver._paths.return_value = paths
    driver._file_threads.call.side_effect = lambda function, *args: function(*args)
    driver._on_disk.side_effect = lambda function, *args: function(*args)
    instance = msgspec.convert(given, Instance)
    reach.check(driver, instance)
    assert link.resolve() == device
    library.connector.connect_volume.side_effect = RuntimeError("no path")
    with pytest.raises(errors.VolumeUnavailable):
        reach.check(driver, instance)
