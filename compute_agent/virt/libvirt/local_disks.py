# SPDX-License-Identifier: Apache-2.0
"""The disks that are made on this host for an instance: root, ephemeral, swap, copies of further images.

What they are is a pure function of the instance and the configuration when they are made. It is noted beside
them then (:class:`Note`): the configuration may say something else later, and the format of a file can't be
asked of the file, since a guest may write any header to the beginning of a raw disk.

An encrypted disk is a qcow2 file with LUKS inside, whatever ``images_type`` says.
"""

import dataclasses

import msgspec

from compute_agent.model import errors
from compute_agent.model.block_device import BlockDevice, SourceType
from compute_agent.model.image import Image
from compute_agent.model.instance import Instance
from compute_agent.virt.libvirt import files, keys
from compute_agent.virt.libvirt.design_devices import DiskRole
from compute_agent.virt.libvirt.facts import DiskSettings, Settings
from compute_agent.virt.libvirt.paths import InstancePaths
from compute_agent.virt.libvirt.properties import OsType, Properties

GIB = 2**30
MIB = 2**20
NOTE = "disk.info"
ROOT = "disk"
SWAP = "disk.swap"
_PROVIDERS = frozenset({"luks", "luks1"})
_PLAIN_DEVICE = BlockDevice(source_type=SourceType.BLANK)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalDisk:
    """A disk that is made on this host.

    :param name: of its file in the instance's directory
    :param format: ``qcow2`` or ``raw``
    :param size_bytes: 0 takes the image's own size
    :param image: what it begins with; None: blank
    :param overlay: it stands on the cached image, where it has one
    :param preallocate: it takes all its room at once
    :param file_system: that a blank one gets
    :param encrypted: with LUKS, by QEMU
    :param passphrase: that opens it, where the scheduler gave one
    :param device: what the scheduler said of it
    """

    name: str
    role: DiskRole
    format: str
    size_bytes: int
    serial: str
    image: Image | None = None
    overlay: bool = False
    preallocate: bool = False
    file_system: str | None = None
    encrypted: bool = False
    passphrase: str | None = dataclasses.field(default=None, repr=False)
    device: BlockDevice = dataclasses.field(default=_PLAIN_DEVICE, repr=False)


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What is noted of one disk."""

    format: str
    encrypted: bool = False


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """What is noted of an instance's disks, by the names of their files."""

    disks: dict[str, Made]


def wanted(instance: Instance, settings: Settings) -> list[LocalDisk]:
    """Return the disks that ``instance`` should have by its description and the configuration: pure.

    :raises InvalidArguments: if what is asked for can't be made
    :raises UnsupportedOperation: if an encryption is asked for that is not offered
    """
    asked = Properties.of(instance)
    found = [*_root(instance), *_further_images(instance), *_ephemerals(instance, asked, settings.disks)]
    if instance.flavor.swap_mb:
        size = instance.flavor.swap_mb * MIB
        found.append(LocalDisk(name=SWAP, role=DiskRole.SWAP, format="raw", size_bytes=size, serial="swap"))
    return [_settled(disk, asked, settings.disks) for disk in found]


def promised_bytes(instance: Instance) -> int:
    """Return how large the disks of ``instance`` on this host may become. Raises as :func:`wanted`.

    Volumes are elsewhere, also one that is the root disk. A disk of its image's size counts as what is told
    of the image.
    """
    return sum(disk.size_bytes or _told_bytes(disk.image) for disk in wanted(instance, Settings()))


def _told_bytes(image: Image | None) -> int:
    return 0 if image is None else max(image.min_disk_gb * GIB, image.size_bytes)


def of(instance: Instance, paths: InstancePaths, settings: Settings) -> list[LocalDisk]:
    """Return the disks of ``instance`` as they were made; before that, as they should be.

    In a native thread. Raises as :func:`wanted`.
    """
    noted, found = read(paths), wanted(instance, settings)
    return [as_made(disk, noted[disk.name]) for disk in found if disk.name in noted] if noted else found


def as_made(disk: LocalDisk, made: Made) -> LocalDisk:
    """Return ``disk`` as it was noted when it was made."""
    return dataclasses.replace(disk, format=made.format, encrypted=made.encrypted)


def note(paths: InstancePaths, made: list[LocalDisk]) -> None:
    """Note what the disks are, before the first is made. In a native thread.

    :raises DiskFull: if there is no room; :raises PermissionDenied: if it may not be written
    """
    disks = {disk.name: Made(format=disk.format, encrypted=disk.encrypted) for disk in made}
    files.write_note(paths, NOTE, Note(disks=disks))


def read(paths: InstancePaths) -> dict[str, Made]:
    """Return what was noted of the disks; nothing where there is no note. In a native thread."""
    found = files.read_note(paths, NOTE, Note)
    return {} if found is None else found.disks


def keys_of(instance: Instance, paths: InstancePaths) -> dict[str, bytes]:
    """Return the keys that a guest needs to start, by the names of its disks. In a native thread.

    A key that is not on this host (the disks were another's) is taken from what the scheduler said, and kept.

    :raises InvalidState: if a key is nowhere
    :raises DiskFull: if there is no room; :raises PermissionDenied: if the keys can't be read or written
    """
    encrypted = {name for name, made in read(paths).items() if made.encrypted}
    if not encrypted:
        return {}
    found = keys.of(paths.uuid)
    if missing := encrypted - found.keys():
        given = {disk.name: disk.passphrase for disk in wanted(instance, Settings()) if disk.name in missing}
        keys.make(paths.uuid, {name: passphrase for name, passphrase in given.items() if passphrase})
        found = keys.of(paths.uuid)
    if missing := encrypted - found.keys():
        raise errors.InvalidState(
            f"the keys of encrypted disks are not on this host: {', '.join(sorted(missing))}",
            hint="put them into [ephemeral_storage_encryption] key_directory, below the instance's uuid",
        )
    return {name: found[name] for name in encrypted}


def boots_from_volume(instance: Instance) -> bool:
    """Return whether a volume is the root disk, and the image only describes the machine."""
    return any(
        d.boot_index == 0 and d.source_type is SourceType.VOLUME for d in instance.block_device_mapping
    )


def _root(instance: Instance) -> list[LocalDisk]:
    """The root disk is the image's. What a mapped image with boot_index 0 says, it says of the root disk."""
    mapped = next((d for d in instance.block_device_mapping if _is_root(d)), None)
    image = instance.image if mapped is None or mapped.image is None else mapped.image
    if image is None or boots_from_volume(instance):
        return []
    size_gb = instance.flavor.root_gb if mapped is None else mapped.size_gb or instance.flavor.root_gb
    device = mapped or BlockDevice(source_type=SourceType.IMAGE)
    if device.mountpoint is None:
        device = msgspec.structs.replace(device, mountpoint=instance.root_device_name)
    return [_disk(ROOT, DiskRole.ROOT, "root", size_gb, device, image)]


def _is_root(device: BlockDevice) -> bool:
    return device.source_type is SourceType.IMAGE and device.boot_index == 0


def _further_images(instance: Instance) -> list[LocalDisk]:
    devices = [
        d for d in instance.block_device_mapping if d.source_type is SourceType.IMAGE and not _is_root(d)
    ]
    if any(device.image is None for device in devices):
        raise errors.InvalidArguments(
            "a block device with source_type image needs an image, or boot_index 0: then it is the root disk"
        )
    return [
        _disk(f"disk.image{number}", DiskRole.IMAGE, f"image{number}", device.size_gb, device, device.image)
        for number, device in enumerate(devices)
    ]


def _ephemerals(instance: Instance, asked: Properties, settings: DiskSettings) -> list[LocalDisk]:
    devices = [d for d in instance.block_device_mapping if d.source_type is SourceType.BLANK]
    if not all(device.size_gb for device in devices):
        raise errors.InvalidArguments("a block device with source_type blank needs size_gb")
    if instance.flavor.ephemeral_gb:
        devices.insert(0, msgspec.structs.replace(_PLAIN_DEVICE, size_gb=instance.flavor.ephemeral_gb))
    file_system = None if asked.os_type is OsType.WINDOWS else settings.file_system
    return [
        dataclasses.replace(
            _disk(f"disk.eph{number}", DiskRole.EPHEMERAL, f"ephemeral{number}", device.size_gb, device),
            file_system=file_system,
        )
        for number, device in enumerate(devices)
    ]


def _disk(
    name: str, role: DiskRole, serial: str, size_gb: int, device: BlockDevice, image: Image | None = None
) -> LocalDisk:
    size = size_gb * GIB
    return LocalDisk(
        name=name, role=role, format="qcow2", size_bytes=size, serial=serial, device=device, image=image
    )


def _settled(disk: LocalDisk, asked: Properties, settings: DiskSettings) -> LocalDisk:
    """Return ``disk`` with what the configuration and the properties decide."""
    passphrase = _passphrase(disk)
    encrypted = settings.encrypt or asked.ephemeral_encryption is True or disk.device.encryption is not None
    usual = "raw" if disk.role is DiskRole.SWAP else settings.format
    return dataclasses.replace(
        disk,
        format="qcow2" if encrypted else usual,
        overlay=settings.overlay and disk.image is not None,
        preallocate=settings.preallocate,
        encrypted=encrypted,
        passphrase=passphrase,
    )


def _passphrase(disk: LocalDisk) -> str | None:
    """Return the passphrase that the scheduler gave; None lets the agent make one."""
    given = disk.device.encryption or {}
    if given and given.get("provider", "luks") not in _PROVIDERS:
        raise errors.UnsupportedOperation(
            "encryption.provider: disks of this host are encrypted with luks only"
        )
    passphrase = given.get("passphrase")
    if passphrase is not None and (not isinstance(passphrase, str) or not 0 < len(passphrase) <= 512):
        raise errors.InvalidArguments("encryption.passphrase is a text of 1 to 512 characters")
    return passphrase
