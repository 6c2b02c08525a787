# SPDX-License-Identifier: Apache-2.0
"""Spawn over AMQP: what a guest gets, what is refused before anything is made, and what was announced."""

from __future__ import annotations

import uuid
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from tests.functional.serving import Served, interface, links, tap_of
from tests.rig import domain
from tests.rig.hypervisor import Hypervisor

DESCRIPTION = "metadata/{https://compute-agent.org/xmlns/instance/1}instance"
RESET_VECTOR = "EIP=0000fff0"
"""Where a processor stands that has not run an instruction yet."""


def kernel(greeting: bytes) -> bytes:
    """A kernel by the oldest Linux boot protocol: says `greeting` and its command line on the serial port."""
    begin = bytes.fromhex("fa 89e3")  # no interrupts; bx = sp: the command line is 16 bytes above it
    say_greeting = bytes.fromhex("1e 0e1f be2f00 e80b00 1f")  # ds = cs; si = greeting; call say; ds as it was
    say_cmdline = bytes.fromhex("8d7710 e80400")  # si = bx + 16; call say
    stop = bytes.fromhex("fa f4 ebfd")
    say = bytes.fromhex("ac 84c0 7412 88c4 bafd03 ec a820 74fb 88e0 baf803 ee ebe9 c3")
    code = begin + say_greeting + say_cmdline + stop + say + greeting + b"\0"
    return (bytes(512) + code).ljust(4096, b"\0")


def foreign(hypervisor: Hypervisor, **fields: Any) -> str:
    """Define a domain that no agent made; its uuid."""
    found = str(uuid.uuid4())
    disk = hypervisor.images.raw(f"foreign-{found[:8]}")
    xml = domain.plain_domain(disk, hypervisor.scratch / f"{found}.log", **({"uuid": found} | fields))
    connection = hypervisor.connect()
    made = str(connection.defineXML(xml).UUIDString())
    connection.close()
    return made


# --- what a guest gets -------------------------------------------------------------------------------


def test_a_guest_boots_a_kernel_with_its_command_line(served: Served, hypervisor: Hypervisor) -> None:
    file = hypervisor.images_path / f"{uuid.uuid4()}.kernel"
    file.write_bytes(kernel(b"booted directly\r\n"))
    instance = served.describe(kernel=file.as_uri(), cmdline="console=ttyS0 <quiet> &")
    del instance["image"]
    served.do("spawn", instance=instance)
    guest = served.guest(instance["uuid"])
    assert "booted directly" in guest.wait_console("console=ttyS0 <quiet> &")
    assert guest.disks == []


def test_a_ramdisk_goes_with_the_kernel(served: Served, hypervisor: Hypervisor) -> None:
    urls = {name: (hypervisor.images_path / name).as_uri() for name in ("kernel", "ramdisk")}
    instance = served.describe(cmdline="root=/dev/vda", **urls)
    planned = served.sender.call("plan", verb="spawn", arguments={"instance": instance})
    xml = next(step["domain_xml"] for step in planned["steps"] if step["step"] == "define")
    shown = {part.tag: part.text for part in ElementTree.fromstring(xml).find("os") or ()}
    assert shown["cmdline"] == "root=/dev/vda"
    assert {shown["kernel"], shown["initrd"]} == set(urls.values())


def test_an_interface_is_on_its_bridge_by_a_name_of_its_own(served: Served, bridge: str) -> None:
    vif = interface(bridge, mtu=1400)
    instance = served.spawn(network_info=[vif])
    assert served.guest(instance).taps == [tap_of(vif)]
    assert f"master {bridge}" in links()[tap_of(vif)]
    assert "mtu 1400" in links()[tap_of(vif)]
    address = served.guest(instance).xml().find("devices/interface/mac")
    assert address is not None and address.get("address") == vif["address"]
    served.do("reboot", instance_uuid=instance, reboot_type="HARD")
    assert f"master {bridge}" in links()[tap_of(vif)]
    served.do("power_off", instance_uuid=instance, timeout=0)
    assert tap_of(vif) not in links()
    served.do("power_on", instance_uuid=instance)
    served.do("destroy", instance_uuid=instance)
    assert tap_of(vif) not in links()


def test_a_guest_that_starts_paused_has_run_no_instruction(served: Served) -> None:
    instance = served.spawn(start_paused=True)
    guest = served.guest(instance)
    assert guest.state == "paused"
    assert guest.console() == ""
    assert RESET_VECTOR in _registers(served, instance)
    served.do("unpause", instance_uuid=instance)
    guest.wait_console("Hello")
    assert RESET_VECTOR not in _registers(served, instance)


def _registers(served: Served, instance: str) -> str:
    import libvirt_qemu

    with served.guest(instance).domain() as found:
        told = libvirt_qemu.qemuMonitorCommand(
            found, "info registers", libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP
        )
    return str(told)


def test_what_is_told_of_a_guest_is_what_it_is(served: Served) -> None:
    instance = served.spawn(flavor={"vcpus": 2, "memory_mb": 32, "root_gb": 1})
    guest = served.guest(instance)
    guest.wait_console("sector\n")
    said = guest.console_path.read_bytes().decode()
    info = served.sender.call("get_info", instance_uuid=instance)["info"]
    assert (info["uuid"], info["num_cpu"], info["max_mem_kb"]) == (instance, 2, 32 * 1024)
    assert info["state"] == served.record(instance)["power_state"] == 1
    assert info["cpu_time_ns"] > 0
    assert served.sender.call("get_info", instance_uuids=[instance])["info"].keys() == {instance}
    output = served.sender.call("get_console_output", instance_uuid=instance)
    assert (output["output"], output["bytes"]) == (said, len(said.encode()))
    assert served.sender.call("get_console_output", instance_uuid=instance, length=4)["output"] == said[-4:]
    (disk,) = guest.disks
    sizes = [image["virtual-size"] for image in guest.disk_chain(disk)]
    assert sizes == [2**30, 2**20]


# --- what was announced ------------------------------------------------------------------------------


def test_a_plan_is_what_spawn_then_does(served: Served, bridge: str, hypervisor: Hypervisor) -> None:
    instance = served.describe(
        network_info=[interface(bridge)], metadata={"role": "a & <b>"}, display_name="web »1«"
    )
    uuid = instance["uuid"]
    planned = served.sender.call("plan", verb="spawn", arguments={"instance": instance})
    assert planned["problems"] == []
    assert served.left_of(uuid) == []
    steps = {step["step"]: step for step in planned["steps"]}
    assert not any(step["done"] for step in steps.values())
    assert steps["check"]["problems"] == []
    done = served.do("spawn", instance=instance)
    assert [step["name"] for step in done["data"]["timing"]["steps"]] == list(steps)
    xml = served.guest(uuid).xml(inactive=True)
    served.do("destroy", instance_uuid=uuid)
    assert _normal(xml) == _normal(_as_libvirt_reads(hypervisor, steps["define"]["domain_xml"]))


def _as_libvirt_reads(hypervisor: Hypervisor, xml: str) -> ElementTree.Element:
    """What becomes of a domain's XML when it is defined by hand; the domain goes again."""
    libvirt_flags = 0
    connection = hypervisor.connect()
    defined = connection.defineXML(xml)
    read = ElementTree.fromstring(defined.XMLDesc(libvirt_flags))
    defined.undefine()
    connection.close()
    return read


def _normal(xml: ElementTree.Element) -> str:
    """A domain without what differs from one operation to the next."""
    described = xml.find(DESCRIPTION)
    assert described is not None
    described.attrib.pop("operation_id", None)
    return ElementTree.canonicalize(ElementTree.tostring(xml, encoding="unicode"), strip_text=True)


def test_a_plan_names_every_reason_against_a_spawn(served: Served) -> None:
    instance = served.describe(
        flavor={"vcpus": 1, "memory_mb": 2**26}, network_info=[interface("nosuchbridge")]
    )
    planned = served.sender.call("plan", verb="spawn", arguments={"instance": instance})
    assert len(planned["problems"]) == 2
    for named in ("nosuchbridge", str(2**26)):
        assert any(named in problem["message"] for problem in planned["problems"])
    assert served.left_of(instance["uuid"]) == []


# --- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"network_info": [interface("nosuchbridge")]}, "NetworkUnavailable"),
        ({"network_info": [interface("lo")]}, "NetworkUnavailable"),
        ({"flavor": {"vcpus": 1, "memory_mb": 2**26}}, "InsufficientResources"),
        ({"flavor": {"vcpus": 1, "memory_mb": 16, "root_gb": 2**20}}, "InsufficientResources"),
        ({"image": None, "kernel": "file:///etc/passwd"}, "ImageUnavailable"),
        ({"image": None}, "InvalidArguments"),
    ],
    ids=["missing-bridge", "no-bridge", "memory", "disk", "kernel-of-the-host", "nothing-to-boot"],
)
def test_what_the_host_has_not_is_refused_before_anything_is_made(
    served: Served, fields: dict[str, Any], code: str
) -> None:
    instance = served.describe(**fields)
    operation = served.sender.cast("spawn", instance=instance)
    assert served.receiver.failed(operation)["data"]["error"]["code"] == code
    assert served.left_of(instance["uuid"]) == []
    assert not [t for t in served.receiver.types_of(operation) if t.startswith("instance.lifecycle")]
    assert served.spawn(uuid=instance["uuid"]) == instance["uuid"]


@pytest.mark.parametrize("taken", ["name", "uuid"])
def test_a_domain_of_somebody_else_is_not_touched(served: Served, hypervisor: Hypervisor, taken: str) -> None:
    instance = served.describe(name=f"taken-{uuid.uuid4().hex[:8]}")
    other = foreign(hypervisor, **{taken: instance[taken]})
    before = ElementTree.tostring(served.guest(other).xml())
    assert served.fail("spawn", instance=instance)["code"] == "InstanceExists"
    assert ElementTree.tostring(served.guest(other).xml()) == before
    assert set(served.left_of(instance["uuid"])) == ({"domain"} if taken == "uuid" else set())
