# SPDX-License-Identifier: Apache-2.0
"""``compute-agent-status check``: each finding has its level and its remedy; nothing missing stops it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import pathlib
import socket
import sqlite3
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest

from compute_agent.cmd import status
from compute_agent.cmd.checks import broker, finding, hypervisor, storage, system
from compute_agent.cmd.checks.finding import Finding, Level, error, good, run, warning, within
from compute_agent.virt.info import Problem


class Conf(types.SimpleNamespace):
    """Options, as the checks read them."""

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)


@pytest.fixture
def conf(tmp_path: pathlib.Path) -> Conf:
    (tmp_path / "state").mkdir()
    return Conf(
        host_name="node-1",
        state_path=str(tmp_path / "state"),
        instances_path=str(tmp_path / "state" / "instances"),
        compute_driver="libvirt.LibvirtDriver",
        transport_url="rabbit://a:b@127.0.0.1:1/",
        health=Conf(state_reserve_mb=1),
        libvirt=Conf(virt_type="qemu", connection_uri="test:///default"),
    )


def worst(found: list[Finding]) -> Level:
    assert all(bool(one.remedy) == (one.level > Level.OK) for one in found), found
    return max((one.level for one in found), default=Level.OK)


# --- the command -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "code"),
    [
        ([good("a", "fine")], 0),
        ([good("a", "fine"), warning("b", "so so", "mend it")], 1),
        ([error("a", "bad", "mend it"), warning("b", "so so", "mend it")], 2),
    ],
)
def test_the_worst_finding_is_the_exit_status(
    found: list[Finding], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(status, "check", lambda *_paths: iter(found))
    assert status.main(["check"]) == code
    table = capsys.readouterr().out
    assert status.main(["check", "--format", "json"]) == code
    told = json.loads(capsys.readouterr().out)["findings"]
    assert [one["level"] for one in told] == [one.level.name.lower() for one in found]
    for one in found:
        assert one.message in table
        assert one.remedy in table


@pytest.mark.parametrize("arguments", [[], ["upgrade"], ["check", "--nonsense"]])
def test_wrong_usage(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        status.main(arguments)
    assert exit_.value.code == 2


def test_a_check_that_fails_is_a_finding() -> None:
    def fails(_conf: Any) -> Iterator[Finding]:
        yield good("a", "fine")
        raise PermissionError("not you")

    found = list(run("a", fails, None))
    assert [one.level for one in found] == [Level.OK, Level.ERROR]
    assert "not you" in found[1].message


def test_what_hangs_is_not_waited_for() -> None:
    never = threading.Event()
    with pytest.raises(finding.Late):
        within(0.01, never.wait)
    never.set()
    assert within(5, lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 // 0)


def findings_of(config: str, tmp_path: pathlib.Path) -> list[dict[str, str]]:
    """What the whole command finds with a configuration; the options are global to a process."""
    path = tmp_path / "agent.conf"
    path.write_text(config)
    path.chmod(0o600)
    command = [sys.executable, "-m", "compute_agent.cmd.status", "check", "--format", "json"]
    done = subprocess.run([*command, "--config-file", str(path)], capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    found: list[dict[str, str]] = json.loads(done.stdout)["findings"]
    assert done.returncode == max(Level[one["level"].upper()] for one in found)
    return found


def test_the_whole_command_on_a_configuration_with_faults(tmp_path: pathlib.Path) -> None:
    found = findings_of(
        f"[DEFAULT]\nstate_path = {tmp_path}/state\ncompute_driver = fake.FakeDriver\n"
        "transport_url = rabbit://a:b@127.0.0.1:1/\n[journal]\nmax_queued = 0\n[oslo_messaging_rabbit]\n"
        "rabbit_qos_prefetch_count = 64\n",
        tmp_path,
    )
    problems = [(one["about"], one["message"]) for one in found if one["level"] == "error"]
    assert [about for about, _ in problems] == ["configuration", "broker"]
    assert "max_queued" in problems[0][1]
    assert {"host", "state_path", "instances_path", "clock"} <= {one["about"] for one in found}
    assert not (tmp_path / "state").exists()


def test_a_configuration_that_is_no_file(tmp_path: pathlib.Path) -> None:
    (found,) = findings_of("this is no configuration", tmp_path)
    assert (found["level"], found["about"]) == ("error", "configuration")


# --- directories -----------------------------------------------------------------------------------


def test_a_directory_that_can_be_written_is_fine_and_stays_as_it_was(conf: Conf) -> None:
    assert worst(list(storage.check_state(conf))) in (Level.OK, Level.WARNING)
    assert list(pathlib.Path(conf.state_path).iterdir()) == []


def test_a_directory_that_can_be_made_is_fine_and_not_made(conf: Conf) -> None:
    found = list(storage.check_instances(conf))
    assert found[0].level is Level.OK
    assert not pathlib.Path(conf.instances_path).exists()


def test_a_file_in_the_place_of_the_directory(conf: Conf, tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    conf.state_path = str(tmp_path / "file" / "state")
    assert storage.nearest(pathlib.Path(conf.state_path)) == tmp_path


@pytest.mark.parametrize(("reserve", "level"), [(1, Level.OK), (2**40, Level.ERROR)])
def test_room_is_compared_with_the_reserve(
    reserve: int, level: Level, conf: Conf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "file_system", lambda _path: "ext4")
    conf.health.state_reserve_mb = reserve
    assert worst(list(storage.check_state(conf))) is level


@pytest.mark.parametrize("kind", ["tmpfs", "nfs4", "fuse.sshfs"])
def test_a_file_system_that_forgets_or_is_far_away(
    kind: str, conf: Conf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "file_system", lambda _path: kind)
    found = list(storage.check_state(conf))
    assert worst(found) is Level.WARNING
    assert kind in found[-1].message


def test_the_file_system_is_that_of_the_closest_mount(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n"
        f"30 22 0:30 / {tmp_path} rw - tmpfs tmpfs rw\n"
        f"31 22 0:31 / {tmp_path}/deep rw - nfs4 server:/ rw\n"
    )
    monkeypatch.setattr(storage, "MOUNTS", mounts)
    assert storage.file_system(tmp_path / "shallow") == "tmpfs"
    assert storage.file_system(tmp_path / "deep" / "deeper") == "nfs4"
    assert storage.file_system(pathlib.Path("/")) == "ext4"


def made_for(host: str, path: pathlib.Path, version: int = 1) -> None:
    """Write a state file that says whose it is."""
    with contextlib.closing(sqlite3.connect(path / "state.db")) as connection, connection:
        connection.execute("CREATE TABLE meta (key TEXT, value TEXT)")
        connection.execute("INSERT INTO meta VALUES ('host', ?)", (host,))
        connection.execute(f"PRAGMA user_version = {version}")


@pytest.mark.parametrize(("host", "level"), [("node-1", Level.OK), ("node-2", Level.ERROR)])
def test_a_state_file_belongs_to_one_host(host: str, level: Level, conf: Conf) -> None:
    made_for(host, pathlib.Path(conf.state_path))
    found = list(storage.check_identity(conf))
    assert worst(found) is level
    assert host in found[0].message


def test_a_state_file_of_a_later_release(conf: Conf) -> None:
    made_for("node-1", pathlib.Path(conf.state_path), version=999)
    assert worst(list(storage.check_identity(conf))) is Level.ERROR


def test_a_running_agent_is_seen_by_its_lock(conf: Conf) -> None:
    with open(pathlib.Path(conf.state_path) / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert any("an agent runs" in one.message for one in storage.check_identity(conf))
    assert not any("an agent runs" in one.message for one in storage.check_identity(conf))


# --- hypervisor ------------------------------------------------------------------------------------


@pytest.fixture
def kvm(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Say what is wrong with ``/dev/kvm``."""
    from compute_agent.virt.libvirt import fitness

    def say(*problems: Problem) -> None:
        monkeypatch.setattr(fitness, "check_kvm", lambda _user, _virt_type: iter(problems))

    return say


def test_libvirt_that_is_away(conf: Conf, kvm: Callable[..., None]) -> None:
    kvm()
    conf.libvirt.connection_uri = "qemu+unix:///system?socket=/no/such/socket"
    found = list(hypervisor.check_libvirt(conf))
    assert worst(found) is Level.ERROR
    assert "can't be reached" in found[0].message


def test_libvirt_that_has_no_such_guests(conf: Conf, kvm: Callable[..., None]) -> None:
    kvm()
    found = list(hypervisor.check_libvirt(conf))  # libvirt's own test driver knows no QEMU
    assert found[0].level is Level.OK
    assert worst(found) is Level.ERROR
    assert any("no guests of type qemu" in one.message for one in found)


def test_findings_about_kvm_keep_their_severity(conf: Conf, kvm: Callable[..., None]) -> None:
    kvm(Problem(message="closed", remedy="open it", severity="warning"))
    (found,) = [one for one in hypervisor.check_libvirt(conf) if one.about == hypervisor.KVM]
    assert (found.level, found.remedy) == (Level.WARNING, "open it")


def test_a_host_that_is_a_guest_is_told_of(
    conf: Conf, kvm: Callable[..., None], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kvm()
    conf.libvirt.virt_type = "kvm"
    (tmp_path / "cpuinfo").write_text("processor: 0\nflags\t\t: fpu hypervisor lahf_lm\n")
    monkeypatch.setattr(hypervisor, "CPUINFO", tmp_path / "cpuinfo")
    about = [one for one in hypervisor.check_libvirt(conf) if one.about == hypervisor.KVM]
    assert [one.level for one in about] == [Level.OK, Level.WARNING]


def test_a_missing_qemu_img(conf: Conf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hypervisor.shutil, "which", lambda _name: None)
    assert worst(list(hypervisor.check_tools(conf))) is Level.ERROR


def test_the_fake_driver_needs_none_of_it(conf: Conf) -> None:
    conf.compute_driver = "fake.FakeDriver"
    assert worst([*hypervisor.check_libvirt(conf), *hypervisor.check_tools(conf)]) is Level.OK


# --- broker ----------------------------------------------------------------------------------------


@pytest.fixture
def listening() -> Iterator[int]:
    """A port at which somebody listens who is no broker."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_broker_that_is_away(listening: int) -> None:
    assert broker._unreachable(f"127.0.0.1:{listening}") is None
    assert "refused" in (broker._unreachable("127.0.0.1:1") or "")


@pytest.mark.parametrize(("answer", "level"), [(0, Level.OK), (1, Level.OK), (OSError("no"), Level.ERROR)])
def test_a_login(
    answer: Any, level: Level, listening: int, conf: Conf, monkeypatch: pytest.MonkeyPatch
) -> None:
    from compute_agent.rpc import consumer, link, transport

    url = f"rabbit://a:b@127.0.0.1:{listening}/"
    conf.transport_url = url
    monkeypatch.setattr(transport, "create_transport", lambda _conf: mock.sentinel.transport)
    monkeypatch.setattr(transport, "describe", lambda _transport: "rabbit://127.0.0.1/")
    monkeypatch.setattr(link, "hosts", lambda _transport: ("rabbit", [f"127.0.0.1:{listening}"], "/"))
    count = mock.create_autospec(consumer.count_consumers, side_effect=[answer])
    monkeypatch.setattr(consumer, "count_consumers", count)
    found = list(broker.check(conf))
    assert worst(found) is level
    assert all("a:b" not in one.message for one in found)


# --- system ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("state", "level"), [(0, Level.OK), (5, Level.WARNING)])
def test_the_clock(state: int, level: Level, conf: Conf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "_clock_state", lambda: state)
    assert worst(list(system.check_clock(conf))) is level


def test_the_kernel_is_asked_about_the_clock() -> None:
    assert system._clock_state() in range(6)


UNITS = [
    ({"LoadState": "not-found"}, 1),
    ({"LoadState": "loaded", "UnitFileState": "disabled"}, 1),
    ({"LoadState": "loaded", "UnitFileState": "enabled", "ActiveState": "active"}, 0),
]


@pytest.mark.parametrize(("shown", "warnings"), UNITS)
def test_the_unit(
    shown: dict[str, str], warnings: int, conf: Conf, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf.state_path, conf.instances_path = "/var/lib/compute-agent", "/var/lib/compute-agent/instances"
    monkeypatch.setattr(system, "SYSTEMD", tmp_path)
    monkeypatch.setattr(system, "_shown", lambda *_names: shown)
    found = list(system.check_unit(conf))
    worst(found)
    assert len([one for one in found if one.level is Level.WARNING]) == warnings


def test_a_unit_that_may_not_write_where_it_has_to(
    conf: Conf, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = {"LoadState": "loaded", "UnitFileState": "enabled", "ReadWritePaths": f"-{conf.state_path}"}
    monkeypatch.setattr(system, "SYSTEMD", tmp_path)
    monkeypatch.setattr(system, "_shown", lambda *_names: shown)
    conf.instances_path = "/srv/instances"
    (found,) = [one for one in system.check_unit(conf) if one.level is Level.WARNING]
    assert "ReadWritePaths=/srv/instances" in found.remedy
