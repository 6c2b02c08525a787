# SPDX-License-Identifier: Apache-2.0
"""Two hosts in one process: the libvirt driver of each, with its own libvirtd, storage and configuration.

The members are called as two agents call them; what becomes of the answers is the test's.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import pathlib
import subprocess
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from compute_agent import concurrency, steps
from compute_agent.conf import CONF
from compute_agent.model.flavor import Flavor
from compute_agent.model.image import Image
from compute_agent.model.instance import Instance
from compute_agent.model.states import PowerState
from compute_agent.steps import Work
from compute_agent.virt.info import LiveMigrateData
from compute_agent.virt.libvirt.coldmigration import processes
from compute_agent.virt.libvirt.driver import LibvirtDriver
from tests.functional.libvirt_driver.conftest import Api
from tests.rig.bootsector import POLITE
from tests.rig.guest import Guest
from tests.rig.hypervisor import Hypervisor

WAIT_S, CALL_S = 60.0, 600.0
SMALL = Flavor(vcpus=1, memory_mb=32)


class Host:
    """One host."""

    def __init__(
        self, name: str, hypervisor: Hypervisor, scratch: pathlib.Path, instances: pathlib.Path
    ) -> None:
        self.name = name
        self.hypervisor = hypervisor
        self.state, self.instances, self.keys = scratch / name, instances, scratch / f"{name}-keys"
        for directory in (self.state, self.instances, self.keys):
            directory.mkdir(exist_ok=True, parents=True)
        self.api = Api()
        self.heard: list[Any] = []
        self.start()

    def start(self) -> None:
        """Make a driver, as an agent does that starts."""
        with self.configured():
            self.driver = LibvirtDriver(self.api)  # type: ignore[arg-type]
            self.driver.register_event_listener(self.heard.append)
            self.driver.init_host(self.name)

    @contextlib.contextmanager
    def configured(self) -> Iterator[None]:
        """The configuration is this host's."""
        options: list[tuple[str, Any, str | None]] = [
            ("host_name", self.name, None),
            ("state_path", str(self.state), None),
            ("instances_path", str(self.instances), None),
            ("connection_uri", self.hypervisor.uri, "libvirt"),
            ("virt_type", "qemu", "libvirt"),
            ("reconnect_interval", 0.2, "libvirt"),
            ("allowed_sources", ["file:///"], "images"),
            ("key_directory", str(self.keys), "ephemeral_storage_encryption"),
        ]
        for name, value, group in options:
            CONF.set_override(name, value, group)
        try:
            yield
        finally:
            for name, _, group in options:
                CONF.clear_override(name, group)

    def call(self, member: Callable[..., Any], *arguments: Any, token: str = "", **fields: Any) -> Any:
        """Call a member of the driver here, as part of the migration `token`."""
        work = Work(token or str(uuid.uuid4()), "migrate", deadline=time.monotonic() + CALL_S)
        with self.configured(), steps.working(work):
            return member(*arguments, **fields)

    def domain(self, instance: Instance) -> Guest:
        return Guest(self.hypervisor, instance.uuid)

    def state_of(self, instance: Instance) -> PowerState:
        with self.configured():
            return self.driver.get_info(instance).state

    def definition(self, instance: Instance) -> str:
        connection = self.hypervisor.connect()
        try:
            return str(connection.lookupByUUIDString(instance.uuid).XMLDesc(2))
        finally:
            connection.close()

    def directory(self, instance: Instance) -> pathlib.Path:
        return self.instances / instance.uuid

    def left_of(self, instance: Instance) -> list[str]:
        """What an onlooker finds of an instance here: a domain, files, keys, programs, secrets."""
        found = ["domain"] if instance.uuid in self.hypervisor.domains() else []
        found += [path.name for path in self.instances.glob(f"{instance.uuid}*")]
        found += [f"key {path.name}" for path in self.keys.glob(f"{instance.uuid}*")]
        found += [f"transfer {path.name}" for path in (self.state / "transfers").glob("*")]
        for end in ("in", "out"):
            directory = str(self.state / "transfers" / f"{instance.uuid}.{end}")
            found += [f"program {number}" for number in processes.of(directory)]
        return found

    def close(self) -> None:
        with self.configured():
            self.driver.cleanup_host(self.name)


class Pair:
    """Two hosts, and a guest that goes between them."""

    def __init__(self, one: Host, other: Host) -> None:
        self.one, self.other = one, other

    def spawned(self, flavor: Flavor = SMALL, source: Host | None = None, **fields: Any) -> Instance:
        """A guest that runs on the first host."""
        host = source or self.one
        image = host.hypervisor.images.raw(f"guest-{uuid.uuid4().hex[:12]}", POLITE)
        wanted: dict[str, Any] = {
            "uuid": str(uuid.uuid4()),
            "flavor": flavor,
            "image": Image(url=image.as_uri()),
        }
        instance = Instance(**(wanted | fields)).named()
        vifs = instance.network_info
        host.call(host.driver.spawn, None, instance, instance.image, [], None, None, vifs)
        return instance

    def moved(
        self, instance: Instance, flavor: Flavor | None = None, power_on: bool = True, back: bool = False
    ) -> Migration:
        """A migration that has succeeded, and is not confirmed."""
        made = Migration(self, instance, flavor, back=back)
        made.check()
        made.receive()
        made.send()
        made.finish(power_on)
        return made

    def close(self) -> None:
        for host in (self.one, self.other):
            host.close()


class Migration:
    """One cold migration, step by step."""

    def __init__(
        self, pair: Pair, instance: Instance, flavor: Flavor | None = None, *, back: bool = False
    ) -> None:
        self.source, self.there = (pair.other, pair.one) if back else (pair.one, pair.other)
        self.token = str(uuid.uuid4())
        self.before = instance
        self.instance = instance if flavor is None else msgspec.structs.replace(instance, flavor=flavor)
        self.flavor = flavor
        self.data = LiveMigrateData(instance_uuid=instance.uuid)

    def _here(self, member: str, *arguments: Any, **fields: Any) -> Any:
        return self.source.call(getattr(self.source.driver, member), *arguments, token=self.token, **fields)

    def _there(self, member: str, *arguments: Any, **fields: Any) -> Any:
        return self.there.call(getattr(self.there.driver, member), *arguments, token=self.token, **fields)

    def _passed_on(self, data: LiveMigrateData) -> LiveMigrateData:
        """The data as they get to the other host."""
        return msgspec.json.decode(msgspec.json.encode(data), type=LiveMigrateData)

    def check(self) -> None:
        """All that is looked at before anything is touched."""
        told = self._here("get_available_resource", self.source.name)
        kept = {key: told[key] for key in ("hypervisor_type", "cpu_info") if key in told}
        data = self._there("check_can_receive_disks", None, self.instance, kept)
        data.source_host, data.dest_host = self.source.name, self.there.name
        data.resize = self.flavor is not None
        try:
            self.data = self._here(
                "check_can_send_disks", None, self.before, self._passed_on(data), None, self.flavor
            )
        finally:
            self._there("cleanup_live_migration_destination_check", None, data)

    def receive(self) -> None:
        self.data = self._there("receive_disks", None, self.instance, self._passed_on(self.data))

    def set_aside(self) -> None:
        flavor = self.flavor or self.before.flavor
        vifs = self.before.network_info
        arguments = (None, self.before, self.there.name, flavor, vifs, None, 20, 5)
        self._here("migrate_disk_and_power_off", *arguments)

    def send(self) -> None:
        self.set_aside()
        self._here("send_disks", None, self.before, self._passed_on(self.data))

    def finish(self, power_on: bool = True) -> None:
        record = {"migration_id": self.token, "data": msgspec.to_builtins(self.data)}
        disks = json.dumps(record["data"]["details"].get("disks", []))
        instance, resized = self.instance, self.flavor is not None
        vifs = instance.network_info
        arguments = (None, record, instance, disks, vifs, instance.image, resized, None, power_on)
        self._there("finish_migration", *arguments)

    def drop(self) -> None:
        self._there("drop_received", None, self.instance, self._passed_on(self.data))

    def put_back(self, power_on: bool = True) -> None:
        vifs = self.before.network_info
        self._here("finish_revert_migration", None, self.before, vifs, None, power_on)

    def confirm(self) -> None:
        self._here("confirm_migration", None, {}, self.before, self.before.network_info)

    def revert(self) -> None:
        """The same between the two agents in the other direction, with what was set aside."""
        back = Migration.__new__(Migration)
        back.source, back.there = self.there, self.source
        back.token = str(uuid.uuid4())
        back.before, back.instance, back.flavor = self.instance, self.before, None
        back.data = LiveMigrateData(
            instance_uuid=self.before.uuid,
            source_host=back.source.name,
            dest_host=back.there.name,
            cold=True,
            reverting=True,
        )
        back.receive()
        back.send()
        self.put_back()
        back.confirm()

    def fact(self, *, at_source: bool = True) -> str:
        member = self._here if at_source else self._there
        return str(member("see_migration", self.before, at_source))


def copies(directory: pathlib.Path, to: pathlib.Path, names: Iterable[str]) -> Mapping[str, pathlib.Path]:
    """Copies of disks that no guest uses, to compare with."""
    to.mkdir()
    for name in names:
        subprocess.run(["cp", "--sparse=always", str(directory / name), str(to / name)], check=True)
    return {name: to / name for name in names}


def differs(one: pathlib.Path, other: pathlib.Path, key: pathlib.Path | None = None) -> bool:
    """Whether a guest sees two disks differ."""
    secret = [] if key is None else ["--object", f"secret,id=key,file={key}"]
    images = [_opened(path, key) for path in (one, other)]
    command = ["qemu-img", "compare", "-U", *secret, "--image-opts", *images]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode == 1


def _opened(disk: pathlib.Path, key: pathlib.Path | None) -> str:
    with disk.open("rb") as file:
        form = "qcow2" if file.read(4) == b"QFI\xfb" else "raw"
    opened = f"driver={form},file.driver=file,file.filename={disk}"
    return opened if key is None else f"{opened},encrypt.key-secret=key"


def files_of(directory: pathlib.Path, but: tuple[str, ...] = ()) -> Mapping[str, str]:
    """Checksums of the files in a directory."""
    found = {}
    for path in sorted(directory.iterdir()):
        if path.is_file() and path.name not in but:
            found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def write(
    disk: pathlib.Path, offset_mib: int, length_mib: int, pattern: int, key: pathlib.Path | None = None
) -> None:
    """Write to a disk as a guest would; it is off."""
    secret = [] if key is None else ["--object", f"secret,id=key,file={key}"]
    order = f"write -P {pattern} {offset_mib}M {length_mib}M"
    command = ["qemu-io", *secret, "-c", order, "--image-opts", _opened(disk, key)]
    subprocess.run(command, check=True, capture_output=True)


def wait(condition: Callable[[], object], what: str) -> None:
    """Let greenthreads run until `condition` holds."""
    until = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < until, f"{what} did not come"
        concurrency.sleep(0.02)
