# SPDX-License-Identifier: Apache-2.0
"""The state file is copied, lost, put back: what is not known is not acted on, and nothing is done again."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.rig.agent import Agent
from tests.rig.bootsector import Images
from tests.rig.guest import Guest
from tests.rig.hypervisor import Hypervisor
from tests.rig.instance import describe
from tests.rig.process import RigTimeoutError, wait_until
from tests.rig.receiver import Receiver
from tests.rig.sender import Sender

IMAGE = Path("/images/any.qcow2")
LONG_S = 60.0


def back_up(one: Agent, to: Path) -> dict[str, Any]:
    """Copy the agent's state file as a person on its host does."""
    where = ["--config-file", str(one.config_file), "--format", "json"]
    command = [sys.executable, "-m", "compute_agent.cmd.ctl", "state", "backup", str(to), *where]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return dict(json.loads(done.stdout))


def put_back(one: Agent, copy: Path) -> None:
    for path in one.state_path.glob("state.db*"):
        path.unlink()
    shutil.copy(copy, one.state_path / "state.db")


def test_a_copy_that_is_put_back_brings_the_guests_and_does_nothing_again(
    receiver: Receiver, agent: Callable[..., Agent], sender: Callable[[Agent], Sender], tmp_path: Path
) -> None:
    fake = {"ledger": tmp_path / "ledger", "faults": "power_off=hang*1"}
    one = agent(sections={"fake": fake})
    to = sender(one)
    kept, removed, later = (describe(IMAGE) for _ in range(3))
    for instance in (kept, removed):
        done = to.cast("spawn", instance=instance)
        receiver.succeeded(done, timeout=LONG_S)
    hangs = to.cast("power_off", instance_uuid=kept["uuid"], timeout=0)
    receiver.wait_for(type="operation.started", operation_id=hangs, timeout=LONG_S)
    behind = to.cast("reboot", instance_uuid=kept["uuid"], reboot_type="HARD")
    receiver.wait_for(type="operation.accepted", operation_id=behind, timeout=LONG_S)
    copied = back_up(one, tmp_path / "copy.db")
    assert copied["bytes"] == (tmp_path / "copy.db").stat().st_size
    receiver.succeeded(to.cast("destroy", instance_uuid=removed["uuid"]), timeout=LONG_S)
    receiver.succeeded(to.cast("spawn", instance=later), timeout=LONG_S)
    before = to.call("ping")["as_of"]

    one.kill()
    put_back(one, tmp_path / "copy.db")
    one.configure({"fake": {"faults": None}})
    written = len((tmp_path / "ledger").read_text().splitlines())
    one.start()
    reset = receiver.wait_for(type="host.state_reset", timeout=LONG_S)
    assert (reset["host_id"], reset["seq"]) == (before["host_id"], 1)
    assert reset["epoch"] > before["epoch"]
    assert reset["data"]["reason"] == "rewound"
    assert reset["data"]["interrupted"] == [hangs, behind]
    assert "what was asked after the copy was made" in reset["data"]["not_recovered"]
    assert sorted(to.call("list_instance_uuids")["uuids"]) == sorted([kept["uuid"], later["uuid"]])
    assert to.call("get_instance", instance_uuid=kept["uuid"])["state"] == "active"
    for operation in (hangs, behind):
        told = to.call("get_operation", operation_id=operation)
        assert (told["state"], told["error"]["code"]) == ("failed", "Interrupted")
    assert to.call("get_operation", operation_id=done)["state"] == "succeeded"
    assert to.call("list_operations", state="running")["operations"] == []
    effects = (tmp_path / "ledger").read_text().splitlines()[written:]
    assert [line for line in effects if '"effect"' in line] == []
    assert len(list(one.state_path.glob("state.db.rewound-*"))) == 1

    receiver.succeeded(to.cast("pause", instance_uuid=kept["uuid"]), timeout=LONG_S)
    one.restart(kill=True)
    resets = [event for event in receiver.distinct() if event["type"] == "host.state_reset"]
    assert len(resets) == 1, "the file that was made anew is as good as any"
    receiver.assert_gapless()


def test_a_copy_is_made_without_an_agent_and_never_over_another_file(
    agent: Callable[..., Agent], tmp_path: Path
) -> None:
    one = agent()
    one.stop()
    files = sorted(path.name for path in one.state_path.iterdir())
    assert back_up(one, tmp_path)["copied"] == str(tmp_path / "state.db")
    assert sorted(path.name for path in one.state_path.iterdir()) == files
    with pytest.raises(subprocess.CalledProcessError) as refused:
        back_up(one, tmp_path)
    assert json.loads(refused.value.stderr)["code"] == "FileExistsError"


def tear_pages(one: Agent) -> None:
    """Half of the file's pages are something else."""
    path = one.state_path / "state.db"
    sqlite3.connect(path).execute("PRAGMA wal_checkpoint(TRUNCATE)").connection.close()
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(os.urandom(path.stat().st_size // 2))


def tear_log(one: Agent) -> None:
    """What was written last is not there any more."""
    with open(one.state_path / "state.db-wal", "r+b") as file:
        file.seek(100)
        file.write(os.urandom(1000))


@pytest.mark.parametrize(
    ("tear", "reason"), [(tear_pages, "damaged"), (tear_log, "rewound")], ids=["pages", "log"]
)
def test_a_torn_state_file_is_kept_aside_and_made_anew_from_the_domains(
    receiver: Receiver,
    agent: Callable[..., Agent],
    sender: Callable[[Agent], Sender],
    images: Images,
    fresh_hypervisor: Hypervisor,
    tear: Callable[[Agent], None],
    reason: str,
) -> None:
    one = agent(hypervisor=True)
    to = sender(one)
    first, second = (describe(images.qcow2(f"torn-{number}"), generation=4) for number in range(2))
    receiver.succeeded(to.cast("spawn", instance=first), timeout=LONG_S)
    one.restart()
    last = receiver.succeeded(to.cast("spawn", instance=second), timeout=LONG_S)
    mark = one.state_path / "state.mark"
    wait_until(lambda: json.loads(mark.read_text())["seq"] >= last["seq"], LONG_S, "the note", one.evidence)
    before, running = to.call("ping")["as_of"], fresh_hypervisor.domains()

    one.kill()
    tear(one)
    one.start()
    reset = receiver.wait_for(type="host.state_reset", timeout=LONG_S)
    assert reset["data"]["reason"].startswith(reason)
    assert reset["data"]["not_recovered"]
    assert (reset["host_id"], reset["seq"]) == (before["host_id"], 1)
    assert reset["epoch"] > before["epoch"]
    assert list(one.state_path.glob(f"state.db.{reason}-*"))
    for instance in (first, second):
        record = to.call("get_instance", instance_uuid=instance["uuid"])
        assert (record["state"], record["generation"]) == ("active", 4)
    assert fresh_hypervisor.domains() == running
    receiver.succeeded(to.cast("destroy", instance_uuid=first["uuid"]), timeout=LONG_S)
    receiver.assert_gapless()


def test_nothing_is_taken_before_a_lost_record_was_compared_with_the_hypervisor(
    receiver: Receiver,
    agent: Callable[..., Agent],
    sender: Callable[[Agent], Sender],
    images: Images,
    fresh_hypervisor: Hypervisor,
    guest: Callable[[str], Guest],
) -> None:
    one = agent(hypervisor=True)
    to = sender(one)
    instance = describe(images.qcow2("lost-record"))
    receiver.succeeded(to.cast("spawn", instance=instance), timeout=LONG_S)
    one.stop()
    for path in one.state_path.glob("state.db*"):
        path.unlink()
    fresh_hypervisor.kill()
    one.start()  # it is ready: that the hypervisor is away is no reason to start it again and again
    since = receiver.mark()
    destroys = to.cast("destroy", instance_uuid=instance["uuid"])
    report = receiver.wait_for(
        lambda event: "record" in event["data"]["problems"], type="host.report", since=since, timeout=LONG_S
    )
    assert report["data"]["resources"] is None
    wait_until(lambda: "record: " in one.status, LONG_S, "the status to say so", one.evidence)
    with pytest.raises(RigTimeoutError):
        to.call("ping", wait_s=1.0)
    assert receiver.types_of(destroys) == []
    fresh_hypervisor.restart()
    end = receiver.succeeded(destroys, timeout=LONG_S)
    assert not (end["data"]["result"] or {}).get("warning"), "it knew the guest, and took it away"
    assert instance["uuid"] not in fresh_hypervisor.domains()
    receiver.assert_gapless()
