# SPDX-License-Identifier: Apache-2.0
"""Volumes of real guests: what the guest sees of them, and that nothing else changes, whatever goes wrong."""

from __future__ import annotations

import contextlib
import os
import pathlib
import subprocess
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from compute_agent import concurrency
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.block_device import BlockDevice, SourceType
from compute_agent.model.flavor import Flavor
from compute_agent.model.instance import Instance
from compute_agent.model.states import PowerState
from compute_agent.virt.images import disks as images
from tests.functional.libvirt_driver.conftest import Watched
from tests.rig import volumeguest
from tests.rig.bootsector import POLITE
from tests.rig.guest import Guest
from tests.rig.iscsiserver import IscsiServer
from tests.rig.nbdserver import NbdServer
from tests.rig.volumeguest import Disks

MIB, GIB = 2**20, 2**30
pytestmark = pytest.mark.timeout(600)
Server = NbdServer | IscsiServer


@pytest.fixture
def place(watched: Watched) -> Iterator[pathlib.Path]:
    """A directory that volumes may be in."""
    path = watched.hypervisor.scratch / f"volumes-{uuid.uuid4().hex[:8]}"
    path.mkdir()
    CONF.set_override("allowed_paths", [f"{path}/"], "volumes")
    yield path
    CONF.clear_override("allowed_paths", "volumes")


@pytest.fixture
def served(place: pathlib.Path) -> Iterator[Callable[..., Any]]:
    """Starts servers of volumes, and ends them."""
    started: list[Server] = []

    def start(server: Server) -> Server:
        started.append(server)
        return server.start()

    yield start
    for server in started:
        server.close()


def described(server: Server, volume_id: str, **data: Any) -> dict[str, Any]:
    """The `connection_info` of a volume with an id."""
    info = server.connection_info
    return info | {"serial": volume_id, "data": info["data"] | data}


@pytest.fixture
def linux(watched: Watched) -> Callable[..., Instance]:
    """Spawns Linux guests that watch their disks."""
    kernel, ramdisk = volumeguest.files(watched.hypervisor.images_path)

    def spawn(**fields: Any) -> Instance:
        wanted: dict[str, Any] = {
            "image": None,
            "kernel": kernel.as_uri(),
            "ramdisk": ramdisk.as_uri(),
            "cmdline": volumeguest.CMDLINE,
            "flavor": Flavor(vcpus=1, memory_mb=volumeguest.MEMORY_MB),
        }
        instance = watched.instance(**(wanted | fields))
        watched.spawn(instance)
        watched.heard.clear()
        return instance

    return spawn


def with_volume(instance: Instance, info: dict[str, Any], **fields: Any) -> Instance:
    """The instance as its record is once a volume is attached."""
    device = BlockDevice(
        source_type=SourceType.VOLUME, volume_id=info["serial"], connection_info=info, **fields
    )
    return msgspec.structs.replace(instance, block_device_mapping=[*instance.block_device_mapping, device])


def disks_of(watched: Watched, instance: Instance) -> Disks:
    return Disks(Guest(watched.hypervisor, instance.uuid))


def new_id() -> str:
    return str(uuid.uuid4())


@pytest.mark.parametrize("make", [NbdServer, IscsiServer])
def test_a_guest_writes_to_a_volume_that_grows_under_it(
    watched: Watched, linux: Callable[..., Instance], served: Callable[..., Any], make: type[Server]
) -> None:
    server, volume_id = served(make()), new_id()
    instance, info = linux(), described(server, volume_id)
    disks = disks_of(watched, instance)
    disks.wait("^up")
    watched.driver.attach_volume(None, info, instance, None)
    name = disks.wait_disk(volume_id, 16 * MIB)
    disks.wait_writing(name)
    assert volumeguest.written(server.contents()) > 0
    watched.outside(server.extend, GIB)
    grown, recorded = described(server, volume_id, size_gb=1), with_volume(instance, info)
    watched.driver.extend_volume(grown, recorded)
    assert disks.wait_disk(volume_id, GIB) == name
    disks.wait_writing(name)
    if make is IscsiServer:  # libvirt 9.0 can't tell QEMU to wait for an NBD server that comes back
        assert disks.failures == []
    watched.driver.detach_volume(None, info, recorded, None)
    disks.wait(f"^gone {name}")
    assert shown(watched, instance) == ([], [])
    assert watched.told(instance) == []


# --- attach and detach -------------------------------------------------------------------------------


def mirrors(watched: Watched, instance: Instance) -> bool:
    """Whether a disk of the guest is being copied."""
    return Guest(watched.hypervisor, instance.uuid).xml().find("devices/disk/mirror") is not None


def shown(watched: Watched, instance: Instance) -> tuple[list[str], list[str]]:
    """The serial numbers of a guest's disks: in what runs (or would), and in the definition."""
    guest = Guest(watched.hypervisor, instance.uuid)
    live, kept = guest.xml().findall("devices/disk"), guest.xml(inactive=True).findall("devices/disk")
    return serials(live), serials(kept)


def serials(disks: list[Any]) -> list[str]:
    return [disk.findtext("serial") for disk in disks if disk.findtext("serial")]


def secrets_of(watched: Watched, instance: Instance) -> list[str]:
    """The names of the secrets that libvirt has for an instance."""
    with contextlib.closing(watched.hypervisor.connect()) as connection:
        names = [secret.usageID() for secret in connection.listAllSecrets()]
    return [name for name in names if instance.uuid in name]


def local(place: pathlib.Path, volume_id: str, size: int = 16 * MIB, **data: Any) -> dict[str, Any]:
    """A volume that is a file, made here."""
    path = place / volume_id
    with path.open("wb") as file:
        file.truncate(size)
    return {
        "driver_volume_type": "local",
        "serial": volume_id,
        "data": {"device_path": str(path), **data},
    }


@pytest.mark.long
def test_volumes_come_and_go_on_a_running_and_on_a_stopped_guest(
    watched: Watched, linux: Callable[..., Instance], served: Callable[..., Any], place: pathlib.Path
) -> None:
    instance = linux()
    disks = disks_of(watched, instance)
    disks.wait("^up")
    secret = served(IscsiServer(password="a password of twelve"))
    infos = [
        described(served(NbdServer(unix=True, directory=place)), new_id()),
        described(secret, new_id()),
        local(place, new_id()),
    ]
    ids = [info["serial"] for info in infos]
    for info in infos:
        watched.driver.attach_volume(None, info, instance, None)
        instance = with_volume(instance, info)
    names = [disks.wait_disk(volume_id, 16 * MIB) for volume_id in ids]
    for name in names:
        disks.wait_writing(name)
    assert shown(watched, instance) == (ids, ids)
    assert [secret.count("/iscsi") for secret in secrets_of(watched, instance)] == [1]
    usage = watched.driver.get_all_volume_usage(
        None, [{"instance": instance, "instance_bdms": instance.block_device_mapping}]
    )
    assert {entry["volume"] for entry in usage if entry["wr_bytes"] > 0} == set(ids)
    watched.driver.power_off(instance)
    watched.driver.detach_volume(None, infos[0], instance, None)
    assert shown(watched, instance)[1] == ids[1:]
    watched.driver.attach_volume(None, infos[0], instance, "/dev/vde")
    watched.driver.power_on(None, instance, [])
    disks.wait_disk(ids[0])
    for info in infos:
        watched.driver.detach_volume(None, info, instance, None)
    assert shown(watched, instance) == ([], [])
    assert secrets_of(watched, instance) == []


@pytest.mark.long
def test_a_password_is_in_no_xml_no_log_and_no_command_line(
    watched: Watched, linux: Callable[..., Instance], served: Callable[..., Any], place: pathlib.Path
) -> None:
    word, phrase = "a-word-of-twelve", "a-phrase-for-luks"
    instance, volume_id, encrypted_id = linux(), new_id(), new_id()
    encrypted = local(place, encrypted_id)
    luks(place / encrypted_id, phrase)
    watched.driver.attach_volume(
        None, described(served(IscsiServer(password=word)), volume_id), instance, None
    )
    watched.driver.attach_volume(
        None, encrypted, instance, None, encryption={"provider": "luks", "passphrase": phrase}
    )
    disks = disks_of(watched, instance)
    disks.wait_writing(disks.wait_disk(encrypted_id, 16 * MIB))
    assert b"written" not in (place / encrypted_id).read_bytes()
    texts = [watched.hypervisor.log_text()]
    pid = watched.hypervisor.qemu_pid(instance.uuid)
    texts.append(pathlib.Path(f"/proc/{pid}/cmdline").read_text(errors="replace"))
    for path in (watched.hypervisor.scratch / "etc").glob("qemu/*.xml"):
        texts.append(path.read_text())
    for path in (watched.hypervisor.scratch / "log").glob("**/*.log"):
        texts.append(path.read_text(errors="replace"))
    for path in (watched.hypervisor.scratch / "run").glob("libvirt/qemu/*.xml"):
        texts.append(path.read_text())
    assert len(texts) > 4
    assert [text for text in texts if word in text or phrase in text] == []
    assert len(secrets_of(watched, instance)) == 2
    watched.driver.destroy(None, instance, [])
    assert secrets_of(watched, instance) == []


def luks(path: pathlib.Path, phrase: str, size: int = 16 * MIB) -> None:
    """Make a file that is encrypted with LUKS, and offers `size` bytes."""
    secret = path.with_name(f"{path.name}.key")
    secret.write_text(phrase)
    command = ["qemu-img", "create", "-q", "-f", "luks", "--object", f"secret,id=key,file={secret}"]
    command += ["-o", "key-secret=key,iter-time=10", str(path), str(size)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    secret.unlink()


def test_a_guest_that_does_not_release_a_volume_keeps_it(
    watched: Watched, place: pathlib.Path, quickly: None
) -> None:
    instance = watched.spawned()  # a boot sector hears of no hot-plug
    info = local(place, new_id())
    watched.driver.attach_volume(None, info, instance, None)
    before = shown(watched, instance)
    for _ in range(2):
        with pytest.raises(errors.DeviceBusy):
            watched.driver.detach_volume(None, info, with_volume(instance, info), None)
        assert shown(watched, instance) == before
        assert info["serial"] in before[0] and info["serial"] in before[1]
    watched.driver.power_off(instance)
    watched.driver.detach_volume(None, info, with_volume(instance, info), None)
    assert info["serial"] not in shown(watched, instance)[1]


@pytest.fixture
def quickly() -> Iterator[None]:
    """A guest is asked twice, for a second each."""
    CONF.set_override("detach_attempts", 2, "volumes")
    CONF.set_override("detach_timeout", 1, "volumes")
    yield
    CONF.clear_override("detach_attempts", "volumes")
    CONF.clear_override("detach_timeout", "volumes")


def test_attaching_twice_and_detaching_what_is_not_there(watched: Watched, place: pathlib.Path) -> None:
    instance, info, other = watched.spawned(), local(place, new_id()), local(place, new_id())
    watched.driver.attach_volume(None, info, instance, "/dev/vdc")
    before = shown(watched, instance)
    watched.driver.attach_volume(None, info, with_volume(instance, info), "/dev/vdc")
    assert shown(watched, instance) == before
    with pytest.raises(errors.DeviceBusy):
        watched.driver.attach_volume(None, info, with_volume(instance, info), "/dev/vdd")
    with pytest.raises(errors.DeviceBusy):
        watched.driver.attach_volume(None, other, instance, "/dev/vdc")
    watched.driver.detach_volume(None, other, instance, None)
    with pytest.raises(errors.VolumeUnavailable):
        watched.driver.extend_volume({**other, "data": {**other["data"], "size_gb": 1}}, instance)
    assert shown(watched, instance) == before


def test_a_file_of_another_guest_is_taken_only_if_both_share_it(
    watched: Watched, place: pathlib.Path
) -> None:
    first, second, info = watched.spawned(), watched.spawned(), local(place, new_id())
    watched.driver.attach_volume(None, info, first, None)
    with pytest.raises(errors.VolumeUnavailable):
        watched.driver.attach_volume(None, info, second, None)
    assert info["serial"] not in shown(watched, second)[0] + shown(watched, second)[1]
    shared = local(place, new_id()) | {"multiattach": True}
    for instance in (first, second):
        watched.driver.attach_volume(None, shared, instance, None)
        assert shared["serial"] in shown(watched, instance)[0]


# --- what is wrong -----------------------------------------------------------------------------------


def test_a_server_that_is_not_there(watched: Watched, served: Callable[..., Any]) -> None:
    instance, server = watched.spawned(), served(NbdServer())
    info = described(server, new_id())
    server.stop()
    before = shown(watched, instance)
    with pytest.raises(errors.VolumeUnavailable):
        watched.driver.attach_volume(None, info, instance, None)
    assert shown(watched, instance) == before


def test_a_wrong_password_leaves_nothing(watched: Watched, served: Callable[..., Any]) -> None:
    instance, server = watched.spawned(), served(IscsiServer(password="a password of twelve"))
    info = described(server, new_id(), auth_password="another word, wrong")
    before = shown(watched, instance)
    with pytest.raises(errors.VolumeUnavailable):
        watched.driver.attach_volume(None, info, instance, None)
    assert shown(watched, instance) == before
    assert secrets_of(watched, instance) == []


@pytest.mark.long
def test_a_volume_whose_server_went_away_can_be_detached(
    watched: Watched, linux: Callable[..., Instance], served: Callable[..., Any]
) -> None:
    instance, server = linux(), served(NbdServer())
    info, disks = described(server, new_id()), disks_of(watched, instance)
    disks.wait("^up")
    watched.driver.attach_volume(None, info, instance, None)
    disks.wait_writing(disks.wait_disk(info["serial"]))
    server.stop()
    disks.wait("^failed")
    assert watched.state(instance) is PowerState.RUNNING
    watched.driver.detach_volume(None, info, with_volume(instance, info), None)
    assert shown(watched, instance) == ([], [])


def test_a_guest_does_not_start_without_its_volumes_server_and_does_with_it(
    watched: Watched, served: Callable[..., Any]
) -> None:
    server = served(NbdServer())
    info = described(server, new_id())
    instance = watched.instance()
    instance = with_volume(instance, info)
    watched.spawn(instance)
    before = shown(watched, instance)
    server.stop()
    with watched.operation("reboot"), pytest.raises(errors.VolumeUnavailable):
        watched.driver.reboot(None, instance, [], "HARD")
    assert shown(watched, instance) == before
    assert watched.state(instance) is PowerState.RUNNING
    watched.driver.power_off(instance)
    with watched.operation("power_on"), pytest.raises(errors.VolumeUnavailable):
        watched.driver.power_on(None, instance, [])
    assert watched.state(instance) is PowerState.SHUTDOWN
    server.start()
    with watched.operation("power_on"):
        watched.driver.power_on(None, instance, [])
    assert (shown(watched, instance), watched.state(instance)) == (before, PowerState.RUNNING)


def test_what_may_not_be_a_volume_is_refused(watched: Watched, place: pathlib.Path) -> None:
    instance = watched.spawned()
    before = shown(watched, instance)
    (place / "link").symlink_to("/etc/shadow")
    for path in ("/etc/shadow", f"{place}/../../etc/shadow", f"{place}/link", "/dev/sda"):
        info = {"driver_volume_type": "local", "serial": new_id(), "data": {"device_path": path}}
        with pytest.raises((errors.PermissionDenied, errors.InvalidArguments)):
            watched.driver.attach_volume(None, info, instance, None)
    chained = place / "chained"
    command = [
        "qemu-img",
        "create",
        "-q",
        "-u",
        "-f",
        "qcow2",
        "-F",
        "raw",
        "-b",
        "/etc/shadow",
        str(chained),
    ]
    subprocess.run([*command, "1M"], check=True, capture_output=True, timeout=60)
    data = {"device_path": str(chained), "format": "qcow2"}
    with pytest.raises(errors.PermissionDenied):
        watched.driver.attach_volume(
            None, {"driver_volume_type": "local", "serial": new_id(), "data": data}, instance, None
        )
    assert shown(watched, instance) == before


# --- spawn, swap, extend -----------------------------------------------------------------------------


def test_a_guest_boots_from_a_volume_and_has_another(
    watched: Watched, served: Callable[..., Any], place: pathlib.Path
) -> None:
    root, data = served(NbdServer(directory=place)), served(IscsiServer(password="a password of twelve"))
    root.file.write_bytes(POLITE.image(16 * MIB))
    infos = [described(root, new_id()), described(data, new_id())]
    devices = [
        BlockDevice(
            source_type=SourceType.VOLUME,
            volume_id=info["serial"],
            connection_info=info,
            boot_index=0 if number == 0 else None,
            mountpoint=f"/dev/vd{'ab'[number]}",
        )
        for number, info in enumerate(infos)
    ]
    instance = watched.instance(image=None, block_device_mapping=devices)
    watched.spawn(instance)
    Guest(watched.hypervisor, instance.uuid).wait_console("Hello from a boot sector", 60)
    assert shown(watched, instance)[1] == [info["serial"] for info in infos]
    assert len(secrets_of(watched, instance)) == 1
    watched.driver.reboot(None, instance, [], "HARD")
    assert shown(watched, instance)[0] == [info["serial"] for info in infos]
    watched.driver.destroy(None, instance, [])
    assert watched.left_of(instance) == []
    assert secrets_of(watched, instance) == []


def test_a_spawn_whose_volume_is_not_there_leaves_nothing(
    watched: Watched, served: Callable[..., Any]
) -> None:
    there, gone = served(IscsiServer(password="a password of twelve")), served(NbdServer())
    gone.stop()
    devices = [
        BlockDevice(source_type=SourceType.VOLUME, volume_id=new_id(), connection_info=server.connection_info)
        for server in (there, gone)
    ]
    instance = watched.instance(block_device_mapping=devices)
    with pytest.raises(errors.VolumeUnavailable):
        watched.spawn(instance)
    assert watched.left_of(instance) == []
    assert secrets_of(watched, instance) == []


@pytest.mark.parametrize("resize_to", [0, pytest.param(1, marks=pytest.mark.long)])
def test_a_guest_goes_over_to_another_volume(
    watched: Watched, linux: Callable[..., Instance], served: Callable[..., Any], resize_to: int
) -> None:
    old, new = (
        served(IscsiServer(password="a password of twelve")),
        served(NbdServer(GIB if resize_to else 16 * MIB)),
    )
    infos = [described(old, new_id()), described(new, new_id())]
    instance = linux()
    disks = disks_of(watched, instance)
    disks.wait("^up")
    watched.driver.attach_volume(None, infos[0], instance, "/dev/vdb")
    instance = with_volume(instance, infos[0], mountpoint="/dev/vdb")
    name = disks.wait_disk(infos[0]["serial"])
    disks.wait_writing(name)
    watched.driver.swap_volume(None, infos[0], infos[1], instance, "/dev/vdb", resize_to)
    disks.wait_writing(name)
    assert 0 < volumeguest.written(old.contents()) < volumeguest.written(new.contents())
    assert disks.failures == []
    assert shown(watched, instance)[1] == [infos[1]["serial"]]
    assert secrets_of(watched, instance) == []
    # From now on it is known as the new volume, although the guest still shows the old one's number.
    after = with_volume(msgspec.structs.replace(instance, block_device_mapping=[]), infos[1])
    usage = watched.driver.get_all_volume_usage(
        None, [{"instance": after, "instance_bdms": after.block_device_mapping}]
    )
    assert [entry["volume"] for entry in usage] == [infos[1]["serial"]]
    if resize_to:  # QEMU copies between volumes of one size only: what is more shows at the next start
        watched.driver.power_off(instance)
        watched.driver.power_on(None, instance, [])
        disks.wait_disk(infos[1]["serial"], GIB)
    watched.driver.detach_volume(None, infos[1], after, None)
    disks.wait(f"^gone {name}")
    assert shown(watched, instance) == ([], [])


def test_a_swap_that_is_cancelled_leaves_the_guest_on_the_old_volume(
    watched: Watched, served: Callable[..., Any], place: pathlib.Path
) -> None:
    instance, old = watched.spawned(), local(place, new_id())
    (place / old["serial"]).write_bytes(os.urandom(16 * MIB))
    new = described(served(NbdServer()), new_id())
    watched.driver.attach_volume(None, old, instance, None)
    before = shown(watched, instance)

    def cancel() -> None:
        watched.wait(lambda: mirrors(watched, instance), "the copy")
        work.cancel()

    CONF.set_override("swap_bandwidth_mb", 1, "volumes")
    try:
        with watched.operation("swap_volume") as work:
            concurrency.spawn(cancel)
            with pytest.raises(errors.Cancelled):
                watched.driver.swap_volume(None, old, new, with_volume(instance, old), None, 0)
    finally:
        CONF.clear_override("swap_bandwidth_mb", "volumes")
    assert shown(watched, instance) == before
    assert Guest(watched.hypervisor, instance.uuid).xml().find("devices/disk/mirror") is None


@pytest.mark.long
def test_a_file_grows_on_a_running_guest_and_on_one_that_is_encrypted(
    watched: Watched, linux: Callable[..., Instance], place: pathlib.Path
) -> None:
    instance, plain, secret = linux(), local(place, new_id()), local(place, new_id())
    disks = disks_of(watched, instance)
    luks(place / secret["serial"], "a phrase")
    encryption = {"provider": "luks", "passphrase": "a phrase"}
    watched.driver.attach_volume(None, plain, instance, None)
    watched.driver.attach_volume(None, secret, instance, None, encryption=encryption)
    disks.wait_disk(plain["serial"], 16 * MIB)
    disks.wait_disk(secret["serial"], 16 * MIB)
    for info, extra in ((plain, {}), (secret, {"encryption": encryption})):
        grown = {**info, "data": {**info["data"], "size_gb": 1}, **extra}
        watched.driver.extend_volume(grown, with_volume(instance, info))
        assert (place / info["serial"]).stat().st_size == GIB
    disks.wait_disk(plain["serial"], GIB)
    disks.wait(rf"^disk \w+ serial {secret['serial'][:20]} bytes 10[67]\d{{7}} ro 0")


@pytest.mark.parametrize("disk_format", ["raw", "qcow2"])
def test_a_file_grows_while_its_guest_is_off(watched: Watched, place: pathlib.Path, disk_format: str) -> None:
    info = local(place, new_id(), format=disk_format)
    if disk_format == "qcow2":
        command = ["qemu-img", "create", "-q", "-f", "qcow2", info["data"]["device_path"], "16M"]
        subprocess.run(command, check=True, timeout=60)
    instance = with_volume(watched.instance(), info)
    watched.spawn(instance)
    watched.driver.power_off(instance)
    for _ in range(2):
        watched.driver.extend_volume({**info, "data": {**info["data"], "size_gb": 1}}, instance)
        assert images.info(info["data"]["device_path"], disk_format).virtual_size == GIB
    watched.driver.power_on(None, instance, [])
    with Guest(watched.hypervisor, instance.uuid).domain() as domain:
        assert domain.blockInfo("vdb")[0] == GIB


# --- snapshots ---------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_snapshot_of_a_volume_is_taken_and_merged_again(
    watched: Watched, linux: Callable[..., Instance], place: pathlib.Path
) -> None:
    instance, info = linux(), local(place, new_id())
    disks = disks_of(watched, instance)
    disks.wait("^up")
    watched.driver.attach_volume(None, info, instance, None)
    instance = with_volume(instance, info)
    name = disks.wait_disk(info["serial"])
    disks.wait_writing(name)
    base = place / info["serial"]
    create = {"snapshot_id": "s", "type": "qcow2", "new_file": "layer-1"}
    changed = watched.driver.volume_snapshot_create(None, instance, info["serial"], create)
    assert changed == {"device_path": str(place / "layer-1"), "format": "qcow2"}
    frozen = base.read_bytes()
    disks.wait_writing(name)
    assert base.read_bytes() == frozen
    assert sources(watched, instance) == ([str(place / "layer-1")], [str(place / "layer-1")])
    now = with_volume(
        msgspec.structs.replace(instance, block_device_mapping=[]),
        {**info, "data": {**info["data"], **changed}},
    )
    delete = {"type": "qcow2", "file_to_merge": "layer-1", "merge_target_file": base.name}
    changed = watched.driver.volume_snapshot_delete(None, now, info["serial"], "s", delete)
    assert changed == {"device_path": str(base), "format": "raw"}
    disks.wait_writing(name)
    assert volumeguest.written(base.read_bytes()) > volumeguest.written(frozen)
    assert sources(watched, instance) == ([str(base)], [str(base)])
    assert disks.failures == []


def sources(watched: Watched, instance: Instance) -> tuple[list[str], list[str]]:
    """The files of a guest's disks: in what runs, and in the definition."""
    guest = Guest(watched.hypervisor, instance.uuid)
    live, kept = (guest.xml(inactive=inactive).findall("devices/disk/source") for inactive in (False, True))
    return [source.attrib["file"] for source in live], [source.attrib["file"] for source in kept]


def test_a_connector_tells_who_this_host_is(watched: Watched) -> None:
    told = watched.driver.get_volume_connector(None)
    assert told["host"] == CONF.host_name
    assert told["initiator"].startswith("iqn.")
    assert {"ip", "multipath", "os_type", "platform"} <= told.keys()
