# SPDX-License-Identifier: Apache-2.0
"""What reaches inside a fake guest, and its consoles."""

import base64
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.virt.fake.hypervisor import Size
from tests.unit.virt.fake.conftest import PLAIN_IMAGE, Host, make_instance

PATH = base64.b64encode(b"/etc/motd").decode()
CONTENTS = base64.b64encode(b"hello").decode()

INSIDE: dict[str, Callable[[Any, Instance], None]] = {
    "set_admin_password": lambda d, i: d.set_admin_password(i, "new"),
    "inject_file": lambda d, i: d.inject_file(i, PATH, CONTENTS),
    "trigger_crash_dump": lambda d, i: d.trigger_crash_dump(i),
    "balloon_memory": lambda d, i: d.balloon_memory(i, 64),
}
BY_AGENT = ["set_admin_password", "inject_file"]


@pytest.mark.parametrize("act", INSIDE)
def test_only_a_guest_that_runs_can_be_reached(host: Host, act: str) -> None:
    instance = host.spawn()
    INSIDE[act](host.driver, instance)
    host.driver.power_off(instance)
    with pytest.raises(errors.InvalidState):
        INSIDE[act](host.driver, instance)
    with pytest.raises(errors.InstanceNotFound):
        INSIDE[act](host.driver, make_instance())


@pytest.mark.parametrize("act", BY_AGENT)
def test_a_guest_without_an_agent_can_not_be_reached(host: Host, act: str) -> None:
    with pytest.raises(errors.GuestAgentUnavailable):
        INSIDE[act](host.driver, host.spawn(image=PLAIN_IMAGE))


def test_what_is_secret_is_kept_as_a_digest(host: Host) -> None:
    instance = host.spawn()
    host.driver.set_admin_password(instance, "hush")
    host.driver.inject_file(instance, PATH, CONTENTS)
    domain = host.driver.hypervisor.get(instance.uuid)
    assert list(domain.files) == ["/etc/motd"]
    kept = msgspec.json.encode(domain)
    assert b"hush" not in kept
    assert CONTENTS.encode() not in kept


@pytest.mark.parametrize(("path", "contents"), [("?", CONTENTS), (PATH, "?"), ("abc", CONTENTS)])
def test_what_is_not_base64_is_refused(host: Host, path: str, contents: str) -> None:
    with pytest.raises(errors.InvalidArguments):
        host.driver.inject_file(host.spawn(), path, contents)


def test_changed_metadata_is_in_the_description(host: Host) -> None:
    instance = host.spawn()
    changed = msgspec.structs.replace(instance, metadata={"role": "changed"})
    host.driver.change_instance_metadata(None, changed, {"role": ["+", "changed"]})
    description = host.driver.get_description(instance.uuid)
    assert description is not None
    assert description.instance is not None
    assert description.instance.metadata == {"role": "changed"}


def test_memory_goes_up_and_down_within_the_flavor(host: Host) -> None:
    instance = host.spawn(flavor={"min_memory_mb": 32})
    host.driver.balloon_memory(instance, 40)
    assert host.driver.get_info(instance).mem_kb == 40 * 1024
    assert host.driver.get_available_resource(host.name)["memory_mb_used"] == 40
    for wrong in (31, 65):
        with pytest.raises(errors.InvalidArguments):
            host.driver.balloon_memory(instance, wrong)
    host.driver.balloon_memory(instance, 64)
    assert host.driver.get_info(instance).mem_kb == 64 * 1024


def test_memory_that_the_host_has_not_is_refused(host: Host) -> None:
    instance = host.spawn(flavor={"min_memory_mb": 32})
    host.driver.balloon_memory(instance, 32)
    host.driver.hypervisor.size = Size(vcpus=8, memory_mb=40, local_gb=10)
    with pytest.raises(errors.InsufficientResources):
        host.driver.balloon_memory(instance, 64)


# --- consoles --------------------------------------------------------------------------------------


def test_the_console_tells_each_boot_and_what_the_guest_writes(host: Host) -> None:
    instance = host.spawn()
    host.driver.outside.write_console(instance.uuid, "hello\n")
    host.driver.reboot(None, instance, [], "HARD")
    output = host.driver.get_console_output(None, instance).decode()
    assert output == f"{instance.name}: boot 1\r\nhello\n{instance.name}: boot 2\r\n"


def test_the_console_is_bounded(host: Host) -> None:
    instance = host.spawn()
    host.driver.outside.write_console(instance.uuid, "x" * 200_000 + "end")
    output = host.driver.get_console_output(None, instance)
    assert len(output) == 64 * 1024
    assert output.endswith(b"end")


@pytest.mark.parametrize("kind", ["vnc", "spice", "serial"])
def test_a_guest_that_is_up_has_consoles(host: Host, kind: str) -> None:
    instance = host.spawn()
    ask = getattr(host.driver, f"get_{kind}_console")
    console = ask(None, instance)
    assert (console.type, console.host) == (kind, "127.0.0.1")
    assert 0 < console.port < 65536
    host.driver.power_off(instance)
    with pytest.raises(errors.InvalidState):
        ask(None, instance)
