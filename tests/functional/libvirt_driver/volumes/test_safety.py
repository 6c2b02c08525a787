# SPDX-License-Identifier: Apache-2.0
"""What no volume may do: tell its secrets, lead to a file of the host, be taken from another guest."""

from __future__ import annotations

import pathlib
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from compute_agent.model import errors
from compute_agent.model.instance import Instance
from tests.functional.libvirt_driver.conftest import Watched
from tests.functional.libvirt_driver.volumes.volume import (
    MIB,
    described,
    disks_of,
    local,
    luks,
    new_id,
    secrets_of,
    shown,
)
from tests.rig.iscsiserver import IscsiServer

pytestmark = pytest.mark.timeout(600)


@pytest.mark.long
def test_a_password_is_in_no_xml_no_log_and_no_command_line(
    watched: Watched, linux: Callable[..., Instance], served: Callable[..., Any], place: pathlib.Path
) -> None:
    word, phrase = "a-word-of-twelve", "a-phrase-for-luks"
    instance, volume_id, encrypted_id = linux(), new_id(), new_id()
    encrypted = local(place, encrypted_id)
    luks(place / encrypted_id, phrase)
    watched.driver.attach_volume(
        None, described(served(IscsiServer(password=word)), volume_id), instance, None
    )
    watched.driver.attach_volume(
        None, encrypted, instance, None, encryption={"provider": "luks", "passphrase": phrase}
    )
    disks = disks_of(watched, instance)
    disks.wait_writing(disks.wait_disk(encrypted_id, 16 * MIB))
    assert b"written" not in (place / encrypted_id).read_bytes()
    texts = [watched.hypervisor.log_text()]
    pid = watched.hypervisor.qemu_pid(instance.uuid)
    texts.append(pathlib.Path(f"/proc/{pid}/cmdline").read_text(errors="replace"))
    for path in (watched.hypervisor.scratch / "etc").glob("qemu/*.xml"):
        texts.append(path.read_text())
    for path in (watched.hypervisor.scratch / "log").glob("**/*.log"):
        texts.append(path.read_text(errors="replace"))
    for path in (watched.hypervisor.scratch / "run").glob("libvirt/qemu/*.xml"):
        texts.append(path.read_text())
    assert len(texts) > 4
    assert [text for text in texts if word in text or phrase in text] == []
    assert len(secrets_of(watched, instance)) == 2
    watched.driver.destroy(None, instance, [])
    assert secrets_of(watched, instance) == []


def test_what_may_not_be_a_volume_is_refused(watched: Watched, place: pathlib.Path) -> None:
    instance = watched.spawned()
    before = shown(watched, instance)
    (place / "link").symlink_to("/etc/shadow")
    for path in ("/etc/shadow", f"{place}/../../etc/shadow", f"{place}/link", "/dev/sda"):
        info = {"driver_volume_type": "local", "serial": new_id(), "data": {"device_path": path}}
        with pytest.raises((errors.PermissionDenied, errors.InvalidArguments)):
            watched.driver.attach_volume(None, info, instance, None)
    chained = place / "chained"
    command = ["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", "/etc/shadow"]
    subprocess.run([*command, str(chained), "1M"], check=True, capture_output=True, timeout=60)
    data = {"device_path": str(chained), "format": "qcow2"}
    info = {"driver_volume_type": "local", "serial": new_id(), "data": data}
    with pytest.raises(errors.PermissionDenied):
        watched.driver.attach_volume(None, info, instance, None)
    assert shown(watched, instance) == before


def test_a_file_of_another_guest_is_taken_only_if_both_share_it(
    watched: Watched, place: pathlib.Path
) -> None:
    first, second, info = watched.spawned(), watched.spawned(), local(place, new_id())
    watched.driver.attach_volume(None, info, first, None)
    with pytest.raises(errors.VolumeUnavailable):
        watched.driver.attach_volume(None, info, second, None)
    assert info["serial"] not in shown(watched, second)[0] + shown(watched, second)[1]
    shared = local(place, new_id()) | {"multiattach": True}
    for instance in (first, second):
        watched.driver.attach_volume(None, shared, instance, None)
        assert shared["serial"] in shown(watched, instance)[0]
