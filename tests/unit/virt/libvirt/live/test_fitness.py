# SPDX-License-Identifier: Apache-2.0
"""Findings about a host, and its figures."""

import os
import pathlib

import pytest

from compute_agent.model import errors
from compute_agent.model.flavor import Flavor
from compute_agent.model.states import PowerState
from compute_agent.virt.libvirt import fitness, resources, room, states
from compute_agent.virt.libvirt.fitness import QemuUser, Versions
from compute_agent.virt.libvirt.guest import Seen

CAPABILITIES = """
<capabilities>
  <host>
    <cpu><arch>x86_64</arch><model>EPYC</model><vendor>AMD</vendor>
      <topology sockets='1' cores='2' threads='1'/><feature name='ht'/></cpu>
    <secmodel><model>none</model></secmodel>
    <secmodel><model>dac</model><doi>0</doi><baselabel type='kvm'>+64055:+109</baselabel></secmodel>
  </host>
  <guest><os_type>hvm</os_type><arch name='x86_64'><domain type='qemu'/><domain type='kvm'/></arch></guest>
</capabilities>
"""
NOBODY = QemuUser(65534, 65534)


def test_the_user_of_qemu_stands_in_the_capabilities() -> None:
    assert fitness.qemu_user(CAPABILITIES) == QemuUser(64055, 109)
    assert fitness.qemu_user("<capabilities><host/></capabilities>") is None


@pytest.mark.parametrize(
    ("mode", "virt_type", "severities"),
    [(0o666, "kvm", []), (0o600, "kvm", ["error"]), (0o600, "qemu", ["warning"])],
)
def test_a_kvm_device_that_qemu_can_not_open_makes_starts_slow(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, mode: int, virt_type: str, severities: list[str]
) -> None:
    device = tmp_path / "kvm"
    device.touch()
    device.chmod(mode)
    monkeypatch.setattr(fitness, "KVM", str(device))
    found = list(fitness.check_kvm(NOBODY, virt_type))
    assert [problem.severity for problem in found] == severities
    assert all(str(device) in problem.remedy for problem in found)


@pytest.mark.parametrize(("virt_type", "count"), [("kvm", 1), ("qemu", 0)])
def test_a_missing_kvm_device_matters_to_kvm_only(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, virt_type: str, count: int
) -> None:
    monkeypatch.setattr(fitness, "KVM", str(tmp_path / "kvm"))
    assert len(list(fitness.check_kvm(NOBODY, virt_type))) == count


def test_a_directory_that_qemu_can_not_pass_through_is_named(tmp_path: pathlib.Path) -> None:
    shut = tmp_path / "shut"
    shut.mkdir(mode=0o700)
    found = list(fitness.check_storage(str(shut / "instances"), NOBODY))
    assert any(str(shut) in problem.remedy for problem in found)
    assert list(fitness.check_storage(str(shut / "instances"), QemuUser(0, 0))) == []


def test_rights_go_by_owner_group_and_others(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "file"
    path.touch()
    path.chmod(0o640)
    found = os.stat(path)
    assert QemuUser(found.st_uid + 1, found.st_gid).may(str(path), 0o4)
    assert not QemuUser(found.st_uid + 1, found.st_gid).may(str(path), 0o2)
    assert not QemuUser(found.st_uid + 1, found.st_gid + 1).may(str(path), 0o4)


def test_old_versions_are_named() -> None:
    found = list(fitness.check_versions(Versions((7, 0, 0), (7, 2, 0), (9, 0, 0))))
    assert [problem.message.partition(" ")[0] for problem in found] == ["libvirt"]


def _seen(state: PowerState, vcpus: int, mem_mb: int) -> Seen:
    return Seen("uuid", "name", state, None, mem_mb * 1024, mem_mb * 1024, vcpus, 0)


def test_what_is_in_use_is_what_runs() -> None:
    guests = [
        _seen(PowerState.RUNNING, 2, 100),
        _seen(PowerState.PAUSED, 1, 50),
        _seen(PowerState.SHUTDOWN, 8, 999),
    ]
    storage = resources.Storage(room.Memory(1000, 600), room.Disk(10 * 2**30, 4 * 2**30))
    found = resources.available(resources.Found(guests, 7002000, "node"), storage, 4, CAPABILITIES)
    assert (found["vcpus"], found["vcpus_used"], found["running_vms"]) == (4, 3, 2)
    assert (found["memory_total"], found["memory_free"], found["memory_dom0"]) == (1000, 600, 250)
    assert (found["local_gb"], found["local_gb_used"], found["disk_available_least"]) == (10, 6, 4)
    assert found["cpu_info"]["topology"] == {"sockets": 1, "cores": 2, "threads": 1}
    assert found["supported_instances"] == [["x86_64", "qemu", "hvm"], ["x86_64", "kvm", "hvm"]]


def test_flags_become_traits() -> None:
    assert resources.traits(["avx2", "fpu", "aes"]) == ["HW_CPU_X86_AESNI", "HW_CPU_X86_AVX2"]


@pytest.mark.parametrize(
    ("flavor", "lacks"),
    [
        (Flavor(vcpus=33, memory_mb=1), "vcpus"),
        (Flavor(vcpus=1, memory_mb=489), "memory"),
        (Flavor(vcpus=1, memory_mb=1, root_gb=6, ephemeral_gb=5), "disk"),
        (Flavor(vcpus=1, memory_mb=1, swap_mb=11 * 1024), "disk"),
    ],
)
def test_a_flavor_is_held_against_the_whole_host(
    monkeypatch: pytest.MonkeyPatch, flavor: Flavor, lacks: str
) -> None:
    monkeypatch.setattr(room, "memory", lambda: room.Memory(1000, 10))
    monkeypatch.setattr(room, "disk", lambda path: room.Disk(10 * 2**30, 1))
    room.check(Flavor(vcpus=32, memory_mb=488, root_gb=10), 2, "/")
    with pytest.raises(errors.InsufficientResources, match=lacks):
        room.check(flavor, 2, "/")


def test_all_disks_are_held_against_the_whole_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of no flavor; a root disk that is a volume is not among them."""
    monkeypatch.setattr(room, "disk", lambda path: room.Disk(10 * 2**30, 1))
    room.check(Flavor(vcpus=1, memory_mb=1, root_gb=11), 2, "/", 10 * 2**30)
    with pytest.raises(errors.InsufficientResources, match="disk"):
        room.check(Flavor(vcpus=1, memory_mb=1), 2, "/", 10 * 2**30 + 1)


@pytest.mark.parametrize(
    ("state", "reason", "saved", "expected"),
    [
        (1, 1, False, PowerState.RUNNING),
        (4, 0, False, PowerState.RUNNING),
        (3, 1, False, PowerState.PAUSED),
        (7, 0, False, PowerState.PAUSED),
        (5, 0, False, PowerState.SHUTDOWN),
        (5, 5, False, PowerState.SHUTDOWN),
        (5, 0, True, PowerState.SUSPENDED),
        (5, 3, False, PowerState.CRASHED),
        (6, 1, False, PowerState.CRASHED),
        (0, 0, False, PowerState.NOSTATE),
    ],
)
def test_power_states(state: int, reason: int, saved: bool, expected: PowerState) -> None:
    assert states.power_state(state, reason, saved) is expected
