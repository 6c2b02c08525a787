# SPDX-License-Identifier: Apache-2.0
"""What an instance asks for is in its domain, or refused by name."""

from __future__ import annotations

import dataclasses

import pytest

from compute_agent.model import errors
from compute_agent.virt.libvirt import config, designer
from compute_agent.virt.libvirt.facts import HostFacts, Settings
from compute_agent.virt.libvirt.properties import names
from tests.unit.virt.libvirt.config import scenarios
from tests.unit.virt.libvirt.config.scenarios import KVM_HOST, PATHS, QEMU_HOST, ROOT, design, instance

WRONG_PROPERTIES = [
    ("hw_machine_type", "warp-9"),
    ("hw_machine_type", "q35,accel=kvm"),
    ("hw_disk_bus", "carrier-pigeon"),
    ("hw_disk_bus", ""),
    ("hw_cdrom_bus", "floppy"),
    ("hw_vif_model", "ne2000'"),
    ("hw_video_model", "3dfx"),
    ("hw_qemu_guest_agent", "maybe"),
    ("hw_watchdog_action", "bark"),
    ("hw_serial_port_count", "5"),
    ("hw_serial_port_count", "-1"),
    ("hw_serial_port_count", "one"),
    ("hw_cpu_sockets", "0"),
    ("hw_cpu_sockets", "²"),
    ("hw_rng_model", "dice"),
    ("os_type", "beos"),
]
UNSUPPORTED_PROPERTIES = [
    ("hw_firmware_type", "uefi"),
    ("hw_tpm_model", "tpm-crb"),
    ("hw_tpm_version", "2.0"),
    ("os_secure_boot", "required"),
    ("hw_mem_encryption", "true"),
    ("hw_numa_nodes", "2"),
    ("hw_cpu_policy", "dedicated"),
    ("hw_mem_page_size", "large"),
    ("hw_something_new", "1"),
    ("hw_architecture", "aarch64"),
]
UNSUPPORTED_EXTRA_SPECS = [
    ("hw:tpm_version", "2.0"),
    ("hw:cpu_policy", "dedicated"),
    ("hw:cpu_realtime", "yes"),
    ("hw:mem_page_size", "1GB"),
    ("quota:vif_inbound_average", "100"),
    ("os:secure_boot", "required"),
]
HARMLESS = [
    ("hw_firmware_type", "bios"),
    ("hw_cpu_policy", "shared"),
    ("os_secure_boot", "disabled"),
    ("hw_rescue_bus", "virtio"),
    ("os_distro", "debian"),
    ("owner", "somebody"),
]


@pytest.mark.parametrize(("name", "value"), WRONG_PROPERTIES)
def test_a_property_with_an_impossible_value_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(errors.InvalidArguments, match=name):
        design(instance(properties={name: value}))


@pytest.mark.parametrize(("name", "value"), UNSUPPORTED_PROPERTIES)
def test_a_property_that_is_not_offered_is_refused(name: str, value: str) -> None:
    with pytest.raises(errors.UnsupportedOperation):
        design(instance(properties={name: value}))


@pytest.mark.parametrize(("name", "value"), UNSUPPORTED_EXTRA_SPECS)
def test_an_extra_spec_that_is_not_offered_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(errors.UnsupportedOperation, match=name):
        design(instance(extra_specs={name: value}))


@pytest.mark.parametrize(("name", "value"), HARMLESS)
def test_a_property_that_asks_for_nothing_changes_nothing(name: str, value: str) -> None:
    asked = design(instance(properties={name: value}))
    assert dataclasses.replace(asked, metadata=None) == dataclasses.replace(design(), metadata=None)


def test_extra_specs_of_schedulers_are_left_to_them() -> None:
    design(instance(extra_specs={"trait:X": "required", "resources:VCPU": "1", "aggregate": "a"}))


def test_the_flavors_word_goes_before_the_images() -> None:
    given = instance(properties={"hw_boot_menu": "yes"}, extra_specs={"hw:boot_menu": "no"})
    os = design(given).os
    assert os is not None
    assert os.boot_menu is False


def test_a_flavor_may_not_use_an_images_names_nor_an_image_a_flavors() -> None:
    given = instance(properties={"hw:boot_menu": "yes"}, extra_specs={"hw_boot_menu": "yes"})
    os = design(given).os
    assert os is not None
    assert os.boot_menu is None


@pytest.mark.parametrize(
    ("vcpus", "specs", "expected"),
    [
        (4, {"hw:cpu_sockets": "2"}, (2, 2, 1)),
        (4, {"hw:cpu_cores": "2"}, (2, 2, 1)),
        (4, {"hw:cpu_threads": "2"}, (2, 1, 2)),
        (8, {"hw:cpu_sockets": "2", "hw:cpu_threads": "2"}, (2, 2, 2)),
        (8, {"hw:cpu_sockets": "2", "hw:cpu_cores": "2", "hw:cpu_threads": "2"}, (2, 2, 2)),
    ],
)
def test_a_topology_is_filled_up_to_the_vcpus(
    vcpus: int, specs: dict[str, str], expected: tuple[int, int, int]
) -> None:
    cpu = design(instance(flavor={"vcpus": vcpus, "memory_mb": 64, "extra_specs": specs})).cpu
    assert cpu is not None
    assert (cpu.sockets, cpu.cores, cpu.threads) == expected


@pytest.mark.parametrize(
    "specs",
    [
        {"hw:cpu_sockets": "3"},
        {"hw:cpu_sockets": "8"},
        {"hw:cpu_cores": "3"},
        {"hw:cpu_sockets": "2", "hw:cpu_cores": "2", "hw:cpu_threads": "2"},
        {"hw:cpu_sockets": "1", "hw:cpu_cores": "2"},
    ],
)
def test_a_topology_that_does_not_make_the_vcpus_is_refused(specs: dict[str, str]) -> None:
    with pytest.raises(errors.InvalidArguments):
        design(instance(flavor={"vcpus": 4, "memory_mb": 64, "extra_specs": specs}))


def test_more_vcpus_than_a_guest_can_have_are_refused() -> None:
    with pytest.raises(errors.InsufficientResources):
        design(instance(flavor={"vcpus": 4096, "memory_mb": 64}))


def test_a_vif_of_another_type_is_refused() -> None:
    vif = {"id": "p", "address": "52:54:00:12:34:56", "type": "ovs", "bridge": "br-int"}
    with pytest.raises(errors.UnsupportedOperation, match="ovs"):
        design(instance(network_info=[vif]))


def test_a_vif_without_its_bridge_is_refused() -> None:
    with pytest.raises(errors.InvalidArguments, match="bridge"):
        design(instance(network_info=[{"id": "p", "address": "52:54:00:12:34:56"}]))


def test_disks_have_names_of_their_own_in_the_order_of_their_roles() -> None:
    disks = [
        designer.GuestDisk(source="/v/1", format="raw", role=designer.DiskRole.VOLUME, target="/dev/vdb"),
        designer.GuestDisk(source="/v/2", format="raw", role=designer.DiskRole.VOLUME, target="/dev/vdb"),
        designer.GuestDisk(source="/v/3", format="raw", role=designer.DiskRole.VOLUME, target="/dev/sdx"),
        ROOT,
    ]
    devices = design(disks=disks).devices
    assert devices is not None
    assert [(disk.source_file, disk.target) for disk in devices.disks] == [
        (PATHS.disk, "vda"),
        ("/v/1", "vdb"),
        ("/v/2", "vdc"),
        ("/v/3", "vdd"),
    ]


def test_the_27th_disk_has_a_name_of_two_letters() -> None:
    disks = [designer.GuestDisk(source=f"/v/{number}", format="raw") for number in range(28)]
    devices = design(disks=disks).devices
    assert devices is not None
    assert [disk.target for disk in devices.disks[25:]] == ["vdz", "vdaa", "vdab"]


def test_disks_are_booted_in_the_order_of_their_boot_index() -> None:
    disks = [
        designer.GuestDisk(source="/v/1", format="raw", boot_index=5),
        designer.GuestDisk(source="/v/2", format="raw", boot_index=0),
        designer.GuestDisk(source="/v/3", format="raw"),
        designer.GuestDisk(source="/v/4", format="raw", boot_index=-1),
    ]
    devices = design(disks=disks).devices
    assert devices is not None
    assert [disk.boot_order for disk in devices.disks] == [2, 1, None, None]


@pytest.mark.parametrize(
    "changes", [{"bus": "carrier"}, {"device": "tape"}, {"cache": "maybe"}, {"source": "relative/path"}]
)
def test_a_disk_that_makes_no_sense_is_refused(changes: dict[str, str]) -> None:
    disk = dataclasses.replace(ROOT, **changes)  # type: ignore[arg-type]
    with pytest.raises(errors.InvalidArguments):
        design(disks=[disk])


def test_a_processor_is_that_of_the_configuration() -> None:
    def model(facts: HostFacts, **settings: object) -> config.Cpu | None:
        return design(facts=facts, settings=Settings(**settings)).cpu  # type: ignore[arg-type]

    assert model(QEMU_HOST) is None
    assert model(KVM_HOST) == config.Cpu(mode=config.CpuMode.HOST_MODEL)
    assert model(KVM_HOST, cpu_mode="none") is None
    assert model(KVM_HOST, cpu_mode="host-passthrough") == config.Cpu(mode=config.CpuMode.HOST_PASSTHROUGH)
    custom = model(KVM_HOST, cpu_mode="custom", cpu_models=("EPYC", "Haswell"))
    assert custom is not None
    assert custom.model == "Haswell"
    with pytest.raises(errors.HypervisorError):
        model(KVM_HOST, cpu_mode="custom", cpu_models=("EPYC",))


def test_a_graphics_console_is_there_only_if_it_is_configured() -> None:
    plain, with_vnc = design().devices, design(settings=Settings(vnc_listen="127.0.0.1")).devices
    assert plain is not None
    assert with_vnc is not None
    assert (plain.graphics, plain.videos, plain.inputs) == ([], [], [])
    assert [graphics.listen for graphics in with_vnc.graphics] == ["127.0.0.1"]
    assert len(with_vnc.videos) == 1


def test_the_same_input_gives_the_same_xml() -> None:
    assert scenarios.full().to_xml() == scenarios.full().to_xml()


def test_check_says_what_design_would() -> None:
    settings = Settings()
    designer.check(instance(), facts=QEMU_HOST, settings=settings)
    refused = instance(properties={"hw_firmware_type": "uefi"})
    with pytest.raises(errors.UnsupportedOperation):
        designer.check(refused, facts=QEMU_HOST, settings=settings)


def test_nothing_of_an_instance_becomes_markup() -> None:
    hostile = "</title><devices><disk type='file'><source file='/etc/shadow'/></disk></devices><title>"
    given = instance(display_name=hostile, metadata={"a": hostile}, hostname="h")
    domain = config.Domain.from_xml(design(given).to_xml())
    assert domain.title == hostile
    assert domain.devices is not None
    assert [disk.source_file for disk in domain.devices.disks] == [PATHS.disk]


def test_every_property_that_is_understood_has_an_openstack_name() -> None:
    assert all(name.startswith(("hw_", "hw:", "quota:", "os_", "img_", "architecture")) for name in names())


CAPABILITIES = """
<capabilities>
  <host>
    <cpu><arch>x86_64</arch></cpu>
    <topology><cells>
      <cell id="0"><cpus num="2"><cpu id="0"/><cpu id="1"/></cpus></cell>
    </cells></topology>
  </host>
  <guest>
    <os_type>hvm</os_type>
    <arch name="i686"><emulator>/usr/bin/qemu-i386</emulator><machine>pc</machine><domain type="qemu"/></arch>
  </guest>
  <guest>
    <os_type>hvm</os_type>
    <arch name="x86_64">
      <wordsize>64</wordsize>
      <emulator>/usr/bin/qemu-system-x86_64</emulator>
      <machine maxCpus="255">pc-i440fx-7.2</machine>
      <machine canonical="pc-i440fx-7.2" maxCpus="255">pc</machine>
      <machine maxCpus="288">pc-q35-7.2</machine>
      <machine canonical="pc-q35-7.2" maxCpus="288">q35</machine>
      <domain type="qemu"/>
    </arch>
  </guest>
</capabilities>
"""


def test_facts_are_read_from_libvirts_capabilities() -> None:
    assert HostFacts.from_capabilities(CAPABILITIES, "qemu") == HostFacts(
        virt_type="qemu",
        arch="x86_64",
        machines=frozenset({"pc", "q35", "pc-i440fx-7.2", "pc-q35-7.2"}),
        default_machine="q35",
        emulator="/usr/bin/qemu-system-x86_64",
        cpus=2,
        max_vcpus=288,
    )


@pytest.mark.parametrize("xml", [CAPABILITIES, "<capabilities/>", "nonsense"])
def test_a_host_that_offers_no_such_guests_is_told(xml: str) -> None:
    with pytest.raises(errors.HypervisorError):
        HostFacts.from_capabilities(xml, "kvm")
