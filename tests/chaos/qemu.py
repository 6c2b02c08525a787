# SPDX-License-Identifier: Apache-2.0
"""The libvirt driver as a ground: its guests are real QEMU processes of a private libvirtd.

All agents share the hypervisor, so each sees the others' guests, too, as an agent sees guests of strangers.
"""

from __future__ import annotations

import atexit
import collections
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import uuid as uuids
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from typing import Any, ClassVar

from tests.chaos.agents import ForkedAgent, Zygote
from tests.chaos.ground import Ground
from tests.chaos.scenarios import KEEPING, OFF, Scenario
from tests.rig import scratch
from tests.rig.bootsector import POLITE, Images
from tests.rig.broker import Broker
from tests.rig.hypervisor import Hypervisor, bindings
from tests.rig.instance import describe
from tests.rig.process import RigError, command_line
from tests.rig.webserver import WebServer, send

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_DELETED = "_del"
_EVENTS = (
    "defined",
    "undefined",
    "started",
    "suspended",
    "resumed",
    "stopped",
    "shutdown",
    "pmsuspended",
    "crashed",
)
_SAVED = 4
SNAPSHOTS = scratch.root() / f"ca-snapshots-{os.getpid()}"
"""Where snapshots go: the guest's uuid begins their names."""
VOLUMES = scratch.root() / f"ca-volumes-{os.getpid()}"
"""Where volumes are: files, each of one guest."""
VOLUME = "vol-1"
"""The volume that every guest has."""
_UUID_LETTERS = 36
_STATES = {1: "active", 2: "active", 3: "paused", 4: "active", 5: "stopped", 6: "stopped"}


class QemuWorld:
    """The guests of one agent, seen by libvirt, the process table and the disk.

    A :class:`~tests.chaos.ground.World`. An agent's guests are those whose disks are to be below its own
    directory.
    """

    def __init__(self, hypervisor: Hypervisor, instances_path: pathlib.Path) -> None:
        self._hypervisor = hypervisor
        self._path = instances_path
        self._states: dict[str, str] = {}
        self._left: dict[str, list[str]] = {}
        self._ours: set[str] = set()
        self.effects: collections.defaultdict[str, list[str]] = collections.defaultdict(list)
        command = [sys.executable, "-m", "tests.chaos.witness", hypervisor.uri]
        self._witness = subprocess.Popen(
            command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._take()

    def read(self) -> None:
        """Look again."""
        assert self._witness.stdin is not None
        self._witness.stdin.write("\n")
        self._witness.stdin.flush()
        self._take()
        self._look()

    def _take(self) -> None:
        """Take down what the witness has seen, up to its answer."""
        assert self._witness.stdout is not None
        for text in self._witness.stdout:
            line = json.loads(text)
            if not line:
                return
            self.effects[line["guest"]].append(_effect(line["event"], line["detail"]))
        raise RigError("the witness has ended")

    def _look(self) -> None:
        self._states, left = {}, collections.defaultdict(list)
        libvirt = bindings()
        with contextlib.closing(self._hypervisor.connect()) as connection:
            for domain in connection.listAllDomains():
                with contextlib.suppress(libvirt.libvirtError):  # another agent's, which has gone meanwhile
                    if str(self._path) in domain.XMLDesc():
                        saved = bool(domain.hasManagedSaveImage())
                        state = "suspended" if saved else _STATES.get(domain.state()[0], "other")
                        self._states[domain.UUIDString()] = state
                        mirrored = "<mirror" in domain.XMLDesc()
                        self._ours.add(domain.UUIDString())
                        left[domain.UUIDString()] += (
                            ["domain"] + ["saved memory"] * saved + ["block job"] * mirrored
                        )
                        left[domain.UUIDString()] += _volumes(domain)
        for uuid, pid in self._hypervisor.qemu_pids().items():
            if any(str(self._path) in argument for argument in command_line(pid)):
                left[uuid].append("qemu")
        for entry in self._path.glob("*"):  # none, once its agent was closed
            with contextlib.suppress(ValueError):
                uuid = str(uuids.UUID(entry.name.removesuffix(_DELETED)))
                left[uuid].append("files")
                left[uuid] += [f"half a {part.name.partition('.')[0]}" for part in entry.glob("*.part")]
        for entry in SNAPSHOTS.glob("*"):
            uuid = entry.name[:_UUID_LETTERS]
            half = entry.name.endswith(".part") and uuid in self._ours
            if half or "domain" in left.get(uuid, []):  # a whole one outlives its guest
                left[uuid].append("half a snapshot" if half else "snapshot")
        self._left = dict(left)

    def guests(self) -> set[str]:
        """Return the uuids of all of which something is there."""
        return set(self._left)

    def left_of(self, uuid: str) -> list[str]:
        """Return which parts of a guest are there: domain, saved memory, qemu, files."""
        return self._left.get(uuid, [])

    def state_of(self, uuid: str) -> str | None:
        """Return how a guest is; None if there is none."""
        return self._states.get(uuid)

    def close(self) -> None:
        """End the witness."""
        self._witness.kill()
        self._witness.communicate()


def _forget_places() -> None:
    for place in (SNAPSHOTS, VOLUMES):
        shutil.rmtree(place, ignore_errors=True)


def _volumes(domain: Any) -> list[str]:
    """Return a guest's volumes, by the ends of their files' names: in what runs, and kept."""
    libvirt = bindings()
    found = []
    for name, flags in (("running", 0), ("kept", libvirt.VIR_DOMAIN_XML_INACTIVE)):
        if flags or domain.isActive():
            for disk in ElementTree.fromstring(domain.XMLDesc(flags)).findall("devices/disk"):
                path = disk.find("source").get("file", "")  # type: ignore[union-attr]
                if path.startswith(str(VOLUMES)):
                    found.append(f"{pathlib.PurePath(path).name.rpartition('.')[2]} {name}")
    return sorted(found)


def _volume(volume_id: str, kind: str, directory: pathlib.Path = VOLUMES) -> dict[str, Any]:
    """A volume that is a new file, whose name ends in its kind."""
    path = directory / f"{uuids.uuid4()}.{kind}"
    with path.open("wb") as file:
        file.truncate(2**20)
    data = {"device_path": str(path)}
    return {
        "volume_id": volume_id,
        "connection_info": {"driver_volume_type": "local", "serial": volume_id, "data": data},
    }


def _attached(_uuid: str) -> dict[str, Any]:
    return {"volume": _volume("vol-2", "second")}


def _swapped(_uuid: str) -> dict[str, Any]:
    return {"old_volume_id": VOLUME, "volume": _volume("vol-3", "third")}


def _effect(event: int, detail: int) -> str:
    """Return libvirt's event in words; the kind of a stop tells a save from a pulled plug."""
    return f"{_EVENTS[event]} {detail}" if _EVENTS[event] == "stopped" else _EVENTS[event]


def _destination(uuid: str) -> dict[str, Any]:
    return {"destination": {"url": f"file://{SNAPSHOTS}/{uuid}-{uuids.uuid4()}"}}


def _put(uuid: str) -> dict[str, Any]:
    """A destination that is a server, which takes it."""
    assert QemuGround.store is not None
    path = f"/{uuid}-{uuids.uuid4()}"

    def take(handler: Any) -> None:
        handler.rfile.read(int(handler.headers["Content-Length"]))
        send(b"", status=201)(handler)

    QemuGround.store.answers[path] = take
    return {"destination": {"url": f"{QemuGround.store.root}{path}"}}


TOLD = {
    "instance": {"config_drive": True, "user_data": "I2Nsb3VkLWNvbmZpZwo="},
    "admin_password": "a password",
    "injected_files": [["/etc/motd", "aGVsbG8K"]],
}
"""What makes a config drive of all that one may hold."""


def _one(verb: str, *before: Any, variant: str = "", **arguments: Any) -> Scenario:
    return Scenario(verb, before, lambda uuid: dict(arguments), variant=variant)


def _new_image(_uuid: str) -> dict[str, Any]:
    """An image that is not in the cache yet."""
    assert QemuGround.images is not None
    return {"image": describe(QemuGround.images.raw(f"chaos-{uuids.uuid4().hex[:12]}", POLITE))["image"]}


def _disks(uuid: str) -> dict[str, Any]:
    """Each kind of disk that is made on the host, one of them encrypted."""
    mapped = {"source_type": "image", "encryption": {"provider": "luks"}} | _new_image(uuid)
    return {"instance": {"block_device_mapping": [mapped, {"source_type": "blank", "size_gb": 1}]}}


def _rescue_image(uuid: str) -> dict[str, Any]:
    return {"rescue_image": _new_image(uuid)["image"], "rescue_password": "password"}


_LAYER = {"snapshot_id": "s", "type": "qcow2", "new_file": "layer"}
_ALL = (
    Scenario("spawn", about="new"),
    Scenario(
        "spawn", about="new", variant="paused", arguments=lambda uuid: {"instance": {"start_paused": True}}
    ),
    Scenario("evacuate", about="new", arguments=lambda uuid: {"disks": "recreate", "fenced": True}),
    Scenario("spawn", about="new", variant="told", arguments=lambda uuid: TOLD),
    Scenario("spawn", about="new", variant="disks", arguments=_disks),
    _one("destroy"),
    _one("destroy", OFF, variant="stopped"),
    _one("destroy", ("suspend", {}), variant="suspended"),
    _one("destroy", variant=KEEPING, destroy_disks=False),
    _one("power_off", timeout=0),
    _one("power_off", variant="asking", timeout=30, retry_interval=2),
    _one("power_off", ("suspend", {}), variant="suspended", timeout=0),
    _one("suspend"),
    _one("suspend", ("pause", {}), variant="paused"),
    _one("reboot", reboot_type="HARD"),
    _one("reboot", variant="soft", reboot_type="SOFT"),
    _one("reboot", OFF, variant="stopped", reboot_type="HARD"),
    Scenario("rescue", (), _rescue_image),
    Scenario("rescue", (OFF,), _rescue_image, variant="stopped"),
    _one("unrescue", ("rescue", {})),
    _one("destroy", ("rescue", {}), variant="rescued"),
    Scenario("rebuild", (), _new_image),
    Scenario("rebuild", (OFF,), _new_image, variant="stopped"),
    _one("soft_delete"),
    _one("restore", ("soft_delete", {})),
    Scenario("attach_volume", (), _attached),
    Scenario("attach_volume", (OFF,), _attached, variant="stopped"),
    _one("detach_volume", OFF, variant="stopped", volume_id=VOLUME),
    Scenario("swap_volume", (), _swapped),
    _one("extend_volume", volume_id=VOLUME, connection_info={}, size_gb=1),
    _one("extend_volume", OFF, variant="stopped", volume_id=VOLUME, connection_info={}, size_gb=1),
    _one("volume_snapshot_create", volume_id=VOLUME, create_info=_LAYER),
    _one(
        "volume_snapshot_delete",
        ("volume_snapshot_create", {"volume_id": VOLUME, "create_info": _LAYER}),
        volume_id=VOLUME,
        snapshot_id="s",
        delete_info={"type": "qcow2", "file_to_merge": None, "merge_target_file": None},
    ),
    Scenario("snapshot", (), _destination),
    Scenario("snapshot", (OFF,), _destination, variant="stopped"),
    Scenario("snapshot", (), _put, variant="put"),
)


class QemuGround(Ground):
    """Real guests. Without a hypervisor it has one of its own, from its first agent to its end."""

    name = "qemu"
    modules = ("compute_agent.virt.libvirt.driver",)
    scenarios: ClassVar[Mapping[str, Scenario]] = {scenario.name: scenario for scenario in _ALL}
    usual = ("spawn", "destroy", "power_off", "suspend", "reboot")
    deadline_s = 6.0
    enough_s = 120.0
    of_threads: ClassVar[Mapping[str, int]] = {"anon_inode:[eventpoll]": 40}
    images: ClassVar[Images | None] = None
    """Where the hypervisor of this process takes its images from."""
    store: ClassVar[WebServer | None] = None
    """Where snapshots may be put."""

    def __init__(self, zygote: Zygote, broker: Broker, hypervisor: Hypervisor | None = None) -> None:
        super().__init__(zygote, broker)
        self._given = hypervisor
        self._made: Hypervisor | None = None
        self._making = threading.Lock()
        self._store = QemuGround.store = WebServer()

    @property
    def hypervisor(self) -> Hypervisor:
        """The one that all agents share."""
        with self._making:
            if self._given is None and self._made is None:
                self._made = Hypervisor().start()
            found = self._given or self._made
            assert found is not None
            QemuGround.images = found.images
            return found

    def __exit__(self, *_exc: object) -> None:
        _forget_places()
        self._store.close()
        if self._made is not None:
            self._made.close()

    def agent(self) -> ForkedAgent:
        """Make an agent with a directory of its own."""
        SNAPSHOTS.mkdir(mode=0o755, exist_ok=True)
        VOLUMES.mkdir(mode=0o755, exist_ok=True)
        atexit.register(_forget_places)
        places = {
            "images": {"allowed_destinations": [f"file://{SNAPSHOTS}/", f"{self._store.root}/"]},
            "volumes": {"allowed_paths": [f"{VOLUMES}/"], "detach_attempts": 1, "detach_timeout": 3},
        }
        return ForkedAgent(self.zygote, self.broker, self.hypervisor, sections=places)

    def world(self, agent: ForkedAgent) -> QemuWorld:
        """Return what can be seen of its guests."""
        return QemuWorld(self.hypervisor, agent.instances_path)

    def guest(self, number: int = 1) -> dict[str, Any]:
        """Return a guest with a root disk, a swap disk and a volume, whose image is not in the cache yet."""
        image = self.hypervisor.images.raw(f"chaos-{uuids.uuid4().hex[:12]}", POLITE)
        flavor = {"vcpus": 1, "memory_mb": 16, "root_gb": 0, "swap_mb": 1}
        directory = VOLUMES / str(uuids.uuid4())
        directory.mkdir()
        volume = {"source_type": "volume", **_volume(VOLUME, "first", directory)}
        return describe(image) | {"flavor": flavor, "block_device_mapping": [volume]}

    def close(self, world: Any) -> None:
        """Remove what its agent has left, and end the witness."""
        world.read()
        libvirt = bindings()
        with contextlib.closing(self.hypervisor.connect()) as connection:
            for uuid in world.guests():
                with contextlib.suppress(libvirt.libvirtError):
                    domain = connection.lookupByUUIDString(uuid)
                    if domain.isActive():
                        domain.destroy()
                    domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE)
        world.close()
