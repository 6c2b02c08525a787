# SPDX-License-Identifier: Apache-2.0
"""A volume's file may stand only on files where volumes may be; headers are read, nothing is guessed."""

from __future__ import annotations

import pathlib
import subprocess

import pytest

from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.virt.libvirt.volumes import chain


@pytest.fixture
def place(tmp_path: pathlib.Path) -> pathlib.Path:
    CONF.set_override("allowed_paths", [f"{tmp_path}/"], "volumes")
    return tmp_path


def create(path: pathlib.Path, *options: str) -> pathlib.Path:
    command = ["qemu-img", "create", "-q", "-u", "-f", "qcow2", *options, str(path), "1M"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return path


def test_a_chain_is_followed_to_its_end(place: pathlib.Path) -> None:
    base = place / "base"
    base.write_bytes(bytes(4096))
    middle = create(place / "middle", "-b", str(base), "-F", "raw")
    top = create(place / "top", "-b", "middle", "-F", "qcow2")
    assert chain.check(str(top), "qcow2") == [str(top), str(middle), str(base)]
    assert chain.check(str(base), "raw") == [str(base)]


@pytest.mark.parametrize("backing", ["/etc/passwd", "../../etc/passwd", "/var/lib/volumes-x/v"])
def test_a_chain_that_leads_out_is_refused(place: pathlib.Path, backing: str) -> None:
    top = create(place / "top", "-b", backing, "-F", "raw")
    with pytest.raises((errors.PermissionDenied, errors.VolumeUnavailable)):
        chain.check(str(top), "qcow2")


@pytest.mark.parametrize("backing", ["nbd://127.0.0.1:1/x", 'json:{"driver":"raw"}'])
def test_a_chain_into_the_network_is_refused(place: pathlib.Path, backing: str) -> None:
    top = create(place / "top", "-b", backing, "-F", "raw")
    with pytest.raises(errors.ImageUnsafe):
        chain.check(str(top), "qcow2")


def test_a_circle_a_data_file_and_what_is_no_qcow2_are_refused(place: pathlib.Path) -> None:
    other = create(place / "other")
    circle = create(place / "circle", "-b", str(other), "-F", "qcow2")
    create(other, "-b", str(circle), "-F", "qcow2")
    external = create(place / "external", "-o", f"data_file={place / 'data'},data_file_raw=on")
    plain = place / "plain"
    plain.write_bytes(bytes(4096))
    for path in (circle, external, plain):
        with pytest.raises(errors.ImageUnsafe):
            chain.check(str(path), "qcow2")
