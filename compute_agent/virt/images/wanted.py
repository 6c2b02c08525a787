# SPDX-License-Identifier: Apache-2.0
"""An image that somebody wants: what it is called in the cache, and what has to be true of it."""

import dataclasses
import hashlib

import msgspec

from compute_agent.model import errors
from compute_agent.model.image import Image
from compute_agent.virt.images import fetch, sources
from compute_agent.virt.images.part import Part
from compute_agent.virt.images.sources import Source

PLAIN_FILE = "file"
"""In a stamp: not a disk image but a kernel or ramdisk, which was not inspected."""


@dataclasses.dataclass(frozen=True)
class Wanted:
    """An image, and whether it is a disk to be inspected or a plain file."""

    image: Image
    inspect: bool

    def told(self, origin: fetch.Origin) -> "Wanted":
        """Return the same with what the source says of the image, where the sender says nothing."""
        image = msgspec.structs.replace(self.image, checksum=origin.checksum, size_bytes=origin.size_bytes)
        return dataclasses.replace(self, image=image)

    @property
    def algorithms(self) -> tuple[str, ...]:
        """The hashes to compute: the one to verify, and the one that the stamp keeps."""
        name = (self.image.checksum or "sha256:").partition(":")[0]
        return ("sha256",) if name == "sha256" else ("sha256", name)

    def key(self, source: Source) -> str:
        """Return the image's name in the cache.

        :raises ImageUnavailable: if it goes by a file that can't be read
        """
        kind = str(self.image.disk_format) if self.inspect else PLAIN_FILE
        if self.image.checksum is not None:
            parts = [kind, self.image.checksum]
        else:
            parts = [kind, source.url, self.image.id or "", _version(source)]
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:40]

    def check_size(self, size: int) -> None:
        """:raises ImageUnavailable: if ``size`` is not the one that was told"""
        told = self.image.size_bytes
        if told and told != size:
            raise errors.ImageUnavailable(
                f"{sources.shown(self.image.url)}: it has {size} bytes, size_bytes says {told}"
            )

    def check_digest(self, part: Part) -> None:
        """:raises ImageChecksumMismatch: if ``part``'s bytes are not those of the checksum"""
        name, _, told = (self.image.checksum or "").partition(":")
        if told and part.digest(name) != told:
            raise errors.ImageChecksumMismatch(
                f"{sources.shown(self.image.url)}: its {name} is {part.digest(name)}, not {told}"
            )


def _version(source: Source) -> str:
    if source.scheme != "file":
        return ""
    with sources.open_file(source) as file:
        return file.identity
