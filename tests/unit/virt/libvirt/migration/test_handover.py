# SPDX-License-Identifier: Apache-2.0
"""What libvirtd's status file proves about a guest that was handed over, and what it does not."""

from __future__ import annotations

import pathlib

import pytest

from compute_agent.virt.libvirt.migration import handover

UUID = "6a9cc7a4-1b4e-4d3c-8f5e-0d7b2f6a1c11"
OTHER = "6a9cc7a4-1b4e-4d3c-8f5e-0d7b2f6a1c12"
STATUS = """\
<!--
WARNING: THIS IS AN AUTO-GENERATED FILE.
-->

<domstatus state='paused' reason='migration' pid='4711'>
  <taint flag='high-privileges'/>
  <job type='none' async='{job}' phase='{phase}' asyncFlags='0x4003'/>
  <domain type='qemu' id='3'>
    <name>instance-1</name>
    <uuid>{uuid}</uuid>
    <metadata><job async='migration out' phase='confirm3'/></metadata>
  </domain>
</domstatus>
"""


def _certain(path: pathlib.Path, text: str, name: str = "instance-1") -> bool:
    (path / "instance-1.xml").write_text(text)
    return handover.is_certain(name, UUID, str(path))


def _status(job: str = "migration out", phase: str = "confirm3", uuid: str = UUID) -> str:
    return STATUS.format(job=job, phase=phase, uuid=uuid)


def test_the_phase_that_binds_libvirtd_is_proof(tmp_path: pathlib.Path) -> None:
    assert _certain(tmp_path, _status())


@pytest.mark.parametrize("phase", ["perform3", "perform3_done", "confirm3_cancelled", "none", ""])
def test_no_other_phase_is(tmp_path: pathlib.Path, phase: str) -> None:
    assert not _certain(tmp_path, _status(phase=phase))


def test_nor_is_what_is_cut_off_missing_or_about_something_else(tmp_path: pathlib.Path) -> None:
    assert not handover.is_certain("instance-1", UUID, str(tmp_path))
    assert not _certain(tmp_path, _status()[:-20])
    assert not _certain(tmp_path, _status(job="dump"))
    assert not _certain(tmp_path, _status(uuid=OTHER))
    assert not _certain(tmp_path, _status().replace("<job type", "<nothing type"))
    assert not _certain(tmp_path, _status(), name="../instance-1")
