# SPDX-License-Identifier: Apache-2.0
"""A `connection_info` comes from a message: what it may not say is refused, typed, and never quoted."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compute_agent.model import errors
from compute_agent.virt.libvirt.volumes import connection
from tests.unit.virt.libvirt.volumes.infos import ISCSI, PATHS, RBD, VOLUME_ID, info

NBD = info("nbd", host="storage.example.org", port=10809, export="v")
LOCAL = info("local", device_path="/var/lib/volumes/v")
NFS = info("nfs", export="10.0.0.5:/export", name="v")
WRONG: list[tuple[dict[str, Any], str, Any]] = [
    (NBD, "host", "10.0.0.1 -o x"),
    (NBD, "host", "-oProxyCommand=x"),
    (NBD, "host", "a" * 254),
    (NBD, "host", "evil/../host"),
    (NBD, "host", "2130706433"),
    (NBD, "host", "0x7f.1"),
    (NBD, "host", "host\n"),
    (NBD, "host", "[::1"),
    (NBD, "host", 7),
    (NBD, "port", 0),
    (NBD, "port", 65536),
    (NBD, "port", "22x"),
    (NBD, "port", True),
    (NBD, "port", -1),
    (NBD, "export", "../../etc"),
    (NBD, "export", "a,b"),
    (NBD, "export", "a b"),
    (NBD, "export", "x" * 300),
    (NBD, "socket", "/run/libvirt/libvirt-sock"),
    (NBD, "tls", "yes"),
    (ISCSI, "target_iqn", "iqn.2010-10.org.openstack:a/b"),
    (ISCSI, "target_iqn", "iqn"),
    (ISCSI, "target_lun", -1),
    (ISCSI, "target_lun", "1;reboot"),
    (ISCSI, "target_portal", "10.0.0.9:99999"),
    (ISCSI, "target_portal", ["10.0.0.9:3260"]),
    (ISCSI, "auth_method", "NONE"),
    (ISCSI, "auth_username", 'u"><x'),
    (ISCSI, "auth_password", ""),
    (ISCSI, "auth_password", None),
    (ISCSI, "auth_password", "x" * 2000),
    (ISCSI, "access_mode", "rwx"),
    (ISCSI, "qos_specs", {"read_iops_sec": "fast"}),
    (ISCSI, "qos_specs", {"read_iops_sec": "-1"}),
    (ISCSI, "qos_specs", "all"),
    (RBD, "name", "volumes"),
    (RBD, "name", "a/b/c/d"),
    (RBD, "name", "volumes/v:conf=/etc/shadow"[:26] + "\\"),
    (RBD, "name", "volumes/.."),
    (RBD, "hosts", ["a b"]),
    (RBD, "hosts", "mon"),
    (RBD, "ports", ["6789"]),
    (RBD, "keyring", "*nothing*"),
    (RBD, "auth_enabled", "yes"),
    (LOCAL, "device_path", "/etc/shadow"),
    (LOCAL, "device_path", "/var/lib/volumes/../../../etc/shadow"),
    (LOCAL, "device_path", "/var/lib/volumesX/v"),
    (LOCAL, "device_path", "/var/lib/volumes/"),
    (LOCAL, "device_path", "/var/lib/volumes"),
    (LOCAL, "device_path", "relative"),
    (LOCAL, "device_path", "/var/lib/volumes/a\nb"),
    (LOCAL, "device_path", "/var/lib/volumes/a\0b"),
    (LOCAL, "device_path", "/dev/sda"),
    (LOCAL, "device_path", "/proc/1/mem"),
    (LOCAL, "format", "vmdk"),
    (LOCAL, "format", "auto"),
    (NFS, "export", "10.0.0.5"),
    (NFS, "export", "10.0.0.5:/a/../b"),
    (NFS, "export", "-o:/a"),
    (NFS, "name", "../v"),
    (NFS, "name", ".."),
]


@pytest.mark.parametrize(("kind", "field", "value"), WRONG)
def test_a_wrong_value_is_refused_and_not_quoted(kind: dict[str, Any], field: str, value: Any) -> None:
    wrong = kind | {"data": kind["data"] | {field: value}}
    with pytest.raises((errors.InvalidArguments, errors.PermissionDenied)) as caught:
        connection.read(wrong, PATHS)
    if isinstance(value, str) and len(value) > 3:
        assert value not in caught.value.message


@pytest.mark.parametrize("kind", [NBD, ISCSI, RBD, LOCAL, NFS])
def test_what_is_needed_is_missed_by_name(kind: dict[str, Any]) -> None:
    for broken in (
        {},
        {**kind, "data": {}},
        {**kind, "data": None},
        {**kind, "data": []},
        {**kind, "driver_volume_type": None},
        {key: value for key, value in kind.items() if key != "serial"},
        {**kind, "serial": "a/b"},
        {**kind, "serial": "a:b"},
        {**kind, "serial": "x" * 300},
        {**kind, "serial": 5},
    ):
        with pytest.raises(errors.InvalidArguments):
            connection.read(broken, PATHS)


def test_a_kind_that_is_not_known_is_unsupported() -> None:
    with pytest.raises(errors.UnsupportedOperation):
        connection.read(info("carrier_pigeon", x=1), PATHS)


@pytest.mark.parametrize("kind", ["fibre_channel", "nvmeof"])
def test_a_kind_that_takes_os_brick_says_so(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "os_brick.initiator.connector", None)
    with pytest.raises(errors.UnsupportedOperation) as caught:
        connection.read(info(kind, target_wwn=["5"]), PATHS)
    assert "os-brick" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "encryption",
    [
        {"provider": "plain", "passphrase": "x"},
        {"provider": "luks2", "passphrase": "x"},
        {"provider": "luks"},
        {"provider": "luks", "passphrase": ""},
        {"provider": "luks", "passphrase": 5},
    ],
)
def test_encryption_that_cant_be_is_refused(encryption: dict[str, Any]) -> None:
    with pytest.raises((errors.InvalidArguments, errors.UnsupportedOperation)):
        connection.read(LOCAL, PATHS, encryption=encryption)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([NBD, ISCSI, RBD, LOCAL, NFS]), st.data())
def test_whatever_comes_is_read_or_refused(kind: dict[str, Any], data: st.DataObject) -> None:
    fields = sorted(kind["data"])
    changed = {data.draw(st.sampled_from(fields)): data.draw(_JSON)}
    try:
        volume = connection.read(kind | {"data": kind["data"] | changed}, PATHS)
    except errors.ComputeError:
        return
    assert volume.volume_id == VOLUME_ID
