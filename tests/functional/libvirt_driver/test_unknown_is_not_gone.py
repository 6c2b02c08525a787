# SPDX-License-Identifier: Apache-2.0
"""A libvirt that answers with errors: what can't be told is taken to be there, and nothing is removed."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from unittest import mock

import libvirt
import pytest

from compute_agent import steps
from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.model.states import PowerState
from compute_agent.virt.libvirt import host
from tests.functional.libvirt_driver.conftest import Watched

REMOVING = tuple(
    name
    for name in dir(libvirt.virDomain)
    if name.startswith(("destroy", "undefine", "shutdown", "reset", "reboot", "managedSaveRemove"))
)
CODES = {
    "internal error": libvirt.VIR_ERR_INTERNAL_ERROR,
    "access denied": libvirt.VIR_ERR_ACCESS_DENIED,
    "system error": libvirt.VIR_ERR_SYSTEM_ERROR,
    "invalid connection": libvirt.VIR_ERR_INVALID_CONN,
}
LOOKS = {
    libvirt.virConnect: ("lookupByUUIDString", "lookupByName", "getAllDomainStats", "listAllDomains"),
    libvirt.virDomain: ("state", "XMLDesc", "isActive", "info", "hasManagedSaveImage"),
}


def failure(code: int) -> libvirt.libvirtError:
    error = libvirt.libvirtError("libvirt says no")
    error.err = (code, libvirt.VIR_FROM_QEMU, "libvirt says no", 2, None, None, None, 5, 0)
    return error


@contextlib.contextmanager
def refusing(kind: type, names: Iterable[str], code: int) -> Iterator[None]:
    """Let these methods of libvirt, called as they have to be, end with an error."""
    with contextlib.ExitStack() as broken:
        for name in names:
            refuse = mock.patch.object(kind, name, autospec=True, side_effect=failure(code))
            broken.enter_context(refuse)
        yield


@pytest.fixture
def removed() -> Iterator[list[str]]:
    """The calls that would take a guest away; they are made all the same."""
    made: list[str] = []

    def watched(name: str) -> Callable[..., Any]:
        real = getattr(libvirt.virDomain, name)

        def call(domain: libvirt.virDomain, *args: Any) -> Any:
            made.append(name)
            return real(domain, *args)

        return call

    patches = {name: watched(name) for name in REMOVING}
    with mock.patch.multiple(libvirt.virDomain, **patches):
        yield made


ASKED = {
    "get_info": lambda w, i: w.driver.get_info(i),
    "get_all_info": lambda w, i: w.driver.get_all_info(),
    "instance_exists": lambda w, i: w.driver.instance_exists(i),
    "get_description": lambda w, i: w.driver.get_description(i.uuid),
    "list_orphans": lambda w, i: w.driver.list_orphans(),
    "spawn": lambda w, i: w.spawn(i),
    "cleanup": lambda w, i: w.driver.cleanup(None, i, []),
    "destroy": lambda w, i: w.driver.destroy(None, i, []),
    "destroy_orphan": lambda w, i: w.driver.destroy_orphan(f"directory:{i.uuid}"),
    "reboot": lambda w, i: w.driver.reboot(None, i, [], "HARD"),
}


@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
def test_nothing_is_removed_while_libvirt_answers_with_errors(
    code: int, watched: Watched, removed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = watched.spawned()
    monkeypatch.setattr(host, "QUESTION_S", 0.3)
    monkeypatch.setattr(steps, "UNDO_GRACE_S", 0.3)
    pid = watched.hypervisor.qemu_pid(instance.uuid)
    before = sorted(watched.directory(instance).rglob("*"))
    for kind, names in LOOKS.items():
        with refusing(kind, names, code):
            for name, ask in ASKED.items():
                _refused(watched, instance, name, ask)
    assert removed == []
    assert watched.hypervisor.qemu_pid(instance.uuid) == pid
    assert sorted(watched.directory(instance).rglob("*")) == before
    monkeypatch.undo()
    watched.wait(lambda: watched.driver._host.connected, "libvirt's return")
    assert watched.state(instance) is PowerState.RUNNING
    watched.driver.destroy(None, instance, [])
    assert "destroy" in {name.removesuffix("Flags") for name in removed}
    assert watched.left_of(instance) == []


def _refused(
    watched: Watched, instance: Instance, name: str, ask: Callable[[Watched, Instance], object]
) -> None:
    """Ask within an operation. What need not look that way may give an answer."""
    try:
        with watched.operation(name, timeout=0.3):
            ask(watched, instance)
    except errors.ComputeError:
        return
    assert name in ("get_all_info", "list_orphans", "instance_exists"), f"{name} has succeeded"
