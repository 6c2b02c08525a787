# SPDX-License-Identifier: Apache-2.0
"""After a lab nothing of it is left, also if the process that made it was killed; labs stand side by side."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
from typing import Any

import pytest

from tests.rig import bootsector, domain
from tests.rig.echo import answers
from tests.rig.lab import Lab
from tests.rig.process import children_of, is_alive, wait_until
from tests.rig.switch import cables

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_MAKE_AND_WAIT = """\
import json, sys, time
sys.path.insert(0, sys.argv[1])
from tests.lab.test_nothing_is_left import inhabit, traces
from tests.rig.lab import Lab
lab = Lab().start()
inhabit(lab)
print(json.dumps(traces(lab)), flush=True)
time.sleep(600)
"""


def inhabit(lab: Lab) -> None:
    """An agent and a running guest, with a tap, on each host."""
    lab.agents(shared=True)
    for host in lab.hosts:
        disk = lab.images.raw(f"guest-{host.name}", bootsector.TICKER)
        xml = domain.plain_domain(disk, lab.shared / f"{host.name}.console", name=host.name)
        nic = "<interface type='bridge'><source bridge='br-guests'/></interface></devices>"
        path = lab.shared / f"{host.name}.xml"
        path.write_text(xml.replace("</devices>", nic))
        host.virsh("create", str(path))


def traces(lab: Lab) -> dict[str, Any]:
    """What there is of a lab: processes, namespaces, its cable, its directories."""
    pids = _below(os.getpid())
    own = _namespaces(os.getpid())
    return {
        "pids": sorted(pids),
        "namespaces": sorted(set().union(*map(_namespaces, pids)) - own),
        "cable": lab.switch.cable,
        "directories": [str(path) for path in [lab.scratch, *(h.hypervisor.scratch for h in lab.hosts)]],
        "qemu": [pid for host in lab.hosts for pid in host.hypervisor.qemu_pids().values()],
    }


def _below(pid: int) -> set[int]:
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        under = children_of(waiting.pop())
        found.update(under)
        waiting += under
    return found


def _namespaces(pid: int) -> set[str]:
    try:
        return {os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("net", "mnt", "uts")}
    except OSError:
        return set()


def _inhabited() -> set[str]:
    """The namespaces that any process of the machine is in."""
    pids = [int(path.name) for path in pathlib.Path("/proc").iterdir() if path.name.isdigit()]
    return set().union(*map(_namespaces, pids))


def _left(left: dict[str, Any]) -> dict[str, Any]:
    """What of the traces is still there."""
    mounts = pathlib.Path("/proc/self/mountinfo").read_text()
    return {
        "pids": [pid for pid in left["pids"] if is_alive(pid)],
        "namespaces": sorted(_inhabited() & set(left["namespaces"])),
        "cable": sorted({left["cable"]} & cables()),
        "directories": [name for name in left["directories"] if os.path.exists(name)],
        "mounts": [name for name in left["directories"] if name in mounts],
    }


def _nothing(found: dict[str, Any]) -> bool:
    return not any(found.values())


@pytest.mark.long
def test_nothing_is_left_of_a_lab_and_its_neighbour_does_not_notice(lab: Lab) -> None:
    before = _below(os.getpid())
    with Lab() as second:
        assert second.switch.cable != lab.switch.cable
        assert {host.name for host in second.hosts}.isdisjoint(host.name for host in lab.hosts)
        inhabit(second)
        made = traces(second)
        made["pids"] = sorted(set(made["pids"]) - before)
        made["namespaces"] = sorted(set(made["namespaces"]) - set().union(*map(_namespaces, before)))
        assert len(made["namespaces"]) == 3 * 2 + 2  # each host's three; the switch's network and mounts
        assert len(made["qemu"]) == 2
        assert answers(second.hosts[0].address) and answers(lab.hosts[0].address)
    assert _nothing(_left(made)), _left(made)
    assert all(answers(host.address) for host in lab.hosts)


@pytest.mark.long
def test_nothing_is_left_when_the_process_that_made_a_lab_is_killed() -> None:
    command = [sys.executable, "-c", _MAKE_AND_WAIT, str(_ROOT)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout is not None
        made = json.loads(maker.stdout.readline())
        assert len(made["qemu"]) == 2 and not _nothing(_left(made))
        maker.send_signal(signal.SIGKILL)
    wait_until(lambda: _nothing(_left(made)), 60, "the end of all", lambda: str(_left(made)))
