# SPDX-License-Identifier: Apache-2.0
"""Snapshots of volumes that are files (``local``, ``nfs``), as their storage service asks for them.

A snapshot puts a new layer on the volume's file: what was there stays as it was from then on, and the guest
writes to the new one. The storage service has made the layer, or it is made here. Deleting a snapshot
merges layers while the guest runs: a *commit* writes a layer down into an older one, a *pull* reads older
ones up into the newest. The files themselves are the storage service's to remove.
"""

import os
from collections.abc import Mapping
from typing import Any

import libvirt
from lxml import etree

from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.steps import Step
from compute_agent.virt.images import qemu_img
from compute_agent.virt.libvirt import config, faults, files
from compute_agent.virt.libvirt.base import LibvirtBase
from compute_agent.virt.libvirt.blockjobs import JobState
from compute_agent.virt.libvirt.config import element
from compute_agent.virt.libvirt.volumes import chain, checks, found
from compute_agent.virt.libvirt.volumes.connection import Volume
from compute_agent.virt.libvirt.volumes.quiesce import Quiescer

_SNAPSHOT = (
    libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
    | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
    | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT
    | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
)


class _Layers:
    """What both verbs know of a volume's files."""

    def __init__(self, driver: LibvirtBase, instance: Instance, volume: Volume) -> None:
        if not volume.is_file:
            raise errors.UnsupportedOperation(
                "only volumes that are files have snapshots here",
                hint="the storage service takes snapshots of all others by itself",
            )
        self._driver = driver
        self._instance = instance
        self._uuid = instance.uuid
        self._volume = volume
        self._directory = os.path.dirname(volume.disk.source)

    def _path(self, name: object, what: str) -> str:
        """Return the path of a file beside the volume's."""
        return os.path.join(self._directory, checks.name(name, what))

    def _disk(self) -> config.Disk:
        """Return the disk, in a guest that runs."""
        there = self._driver._host.ask_guest(self._uuid, found.look, self._volume.volume_id)
        return found.running(there, self._volume.volume_id)

    def now(self) -> dict[str, Any]:
        """Return what has changed in the volume's ``data``: its file, and the file's format."""
        disk = self._disk()
        path = str(disk.source_file)
        names = {"name": os.path.basename(path)} if self._volume.kind == "nfs" else {"device_path": path}
        return names | {"format": disk.format or "raw"}


class Create(_Layers):
    """One ``volume_snapshot_create``."""

    def __init__(
        self,
        driver: LibvirtBase,
        instance: Instance,
        volume: Volume,
        create_info: Mapping[str, Any],
        quiescer: Quiescer,
    ) -> None:
        super().__init__(driver, instance, volume)
        if create_info.get("type", "qcow2") != "qcow2":
            raise errors.InvalidArguments("create_info: type is not qcow2")
        self._layer = self._path(create_info.get("new_file"), "new_file")
        self._quiescer = quiescer

    def steps(self) -> list[Step]:
        """Return the parts.

        :raises VolumeUnavailable: if the volume is not attached
        :raises InvalidState: if the guest does not run
        """
        self._disk()
        return [
            Step("layer", self._make_layer, done=self._is_taken),
            Step("snapshot", self._take, done=self._is_taken),
        ]

    def _is_taken(self) -> bool:
        return self._disk().source_file == self._layer

    def _make_layer(self) -> None:
        disk = self._disk()
        if not self._driver._on_disk(files.is_there, self._layer):
            self._create(str(disk.source_file), disk.format or "raw")
        made = self._driver._on_disk(chain.check, self._layer, "qcow2")
        below = self._driver._on_disk(os.path.realpath, str(disk.source_file))
        if made[1:2] != [below]:
            raise errors.ImageUnsafe("new_file does not stand on the volume's file")

    def _create(self, below: str, below_format: str) -> None:
        part = f"{self._layer}.part"
        qemu_img.run(
            ["create", "-q", "-f", "qcow2", "-F", below_format, "-b", below, "--", part], writes=part
        )
        self._driver._on_disk(os.rename, part, self._layer)

    def _take(self) -> None:
        target = str(self._disk().target)
        with self._quiescer.quiesced(self._instance):
            self._driver._host.act_guest(self._uuid, _take, target, self._layer)


class Delete(_Layers):
    """One ``volume_snapshot_delete``."""

    def __init__(
        self, driver: LibvirtBase, instance: Instance, volume: Volume, delete_info: Mapping[str, Any]
    ) -> None:
        super().__init__(driver, instance, volume)
        top, base = delete_info.get("file_to_merge"), delete_info.get("merge_target_file")
        self._top = None if top is None else self._path(top, "file_to_merge")
        self._base = None if base is None else self._path(base, "merge_target_file")
        if self._base is not None and self._top is None:
            raise errors.InvalidArguments("delete_info: file_to_merge is missing")

    def steps(self) -> list[Step]:
        """Return the parts. Raises as :meth:`Create.steps`."""
        self._disk()
        return [Step("merge", self._merge, done=self._is_merged)]

    def _layers(self) -> list[str]:
        target = str(self._disk().target)
        return self._driver._host.ask_guest(self._uuid, layers, target)

    def _is_merged(self) -> bool:
        """Whether it is so already: the newer layer is in the older one, or what was between is read up."""
        found = self._layers()
        if self._base is not None:
            return self._top not in found
        return found[1:2] == ([] if self._top is None else [self._top])

    def _merge(self) -> None:
        target = str(self._disk().target)
        with self._driver._block_jobs.watching(self._uuid, target) as watch:
            watch.wait(frozenset({JobState.READY}))  # of an attempt before
            if not self._is_merged():
                self._driver._host.act_guest(self._uuid, _merge, target, self._top, self._base)
            job = watch.wait(frozenset({JobState.READY}))
            if job.state is JobState.READY:
                self._driver._block_jobs.pivot(self._uuid, target)
                watch.wait(frozenset())
        if not self._is_merged():
            raise errors.VolumeUnavailable("QEMU has not merged the volume's layers")


def layers(domain: libvirt.virDomain, target: str) -> list[str]:
    """Return the files of a running disk, newest first. In a native thread."""
    for disk in element.parse(domain.XMLDesc(0)).iterfind("devices/disk"):
        if disk.xpath("string(target/@dev)") == target:
            found = [disk.find("source"), *disk.iterfind(".//backingStore/source")]
            return [str(source.get("file")) for source in found if source is not None]
    return []


def _take(domain: libvirt.virDomain, target: str, layer: str) -> None:
    """Let the guest write to the new layer from now on. In a native thread."""
    if layer in layers(domain, target):
        return
    root = etree.Element("domainsnapshot")
    disks = etree.SubElement(root, "disks")
    for disk in element.parse(domain.XMLDesc(0)).iterfind("devices/disk"):
        name = str(disk.xpath("string(target/@dev)"))
        node = etree.SubElement(disks, "disk", name=name, snapshot="external" if name == target else "no")
        if name == target:
            node.set("type", "file")
            etree.SubElement(node, "driver", type="qcow2")
            etree.SubElement(node, "source", file=layer)
    try:
        domain.snapshotCreateXML(etree.tostring(root, encoding="unicode"), _SNAPSHOT)
    except libvirt.libvirtError as error:
        if faults.is_lost(error) or layer not in layers(domain, target):
            raise


def _merge(domain: libvirt.virDomain, target: str, top: str | None, base: str | None) -> None:
    """Begin to merge. In a native thread."""
    if base is None:
        domain.blockRebase(target, top, 0, 0)
        return
    active = layers(domain, target)[:1] == [top]
    flags = libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE if active else 0
    domain.blockCommit(target, base, top, 0, flags)
