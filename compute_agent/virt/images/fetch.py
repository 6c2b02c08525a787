# SPDX-License-Identifier: Apache-2.0
"""Bring an image's bytes into a file in the making, chunk by chunk, wherever they come from.

Reading files, hashing and writing happen in native threads. Between two chunks the operation
may be cancelled, its deadline is looked at, and its progress told.
"""

import contextlib
import dataclasses

from compute_agent import failpoints, steps
from compute_agent.model import errors
from compute_agent.model.image import Image
from compute_agent.virt.images import glance, sources
from compute_agent.virt.images.download import Download, Renew
from compute_agent.virt.images.limit import Limit, check_room
from compute_agent.virt.images.part import Part
from compute_agent.virt.images.sources import OpenFile, Source
from compute_agent.virt.images.web import Call, Target

CHUNK_BYTES = 4 * 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
    """Where an image's bytes are, and what is known of them before they come.

    :param target: for what comes over the network
    :param checksum: told by the sender, or else by the image service
    :param size_bytes: likewise; 0 if nobody told
    """

    source: Source
    checksum: str | None
    size_bytes: int
    target: Target | None = None
    renew: Renew | None = None


def locate(source: Source, image: Image, call: Call) -> Origin:
    """Find out where the bytes of ``image`` are; an image service is asked.

    :raises ImageUnavailable: if it does not have it, or can't be asked
    """
    if source.scheme == "file":
        return Origin(source=source, checksum=image.checksum, size_bytes=image.size_bytes)
    if source.image_id is None:
        target = Target(url=source.url, headers=image.headers, inner=source.inner)
        return Origin(source=source, checksum=image.checksum, size_bytes=image.size_bytes, target=target)
    service = glance.Service(image.headers, call)
    told = service.look_up(source.image_id)
    return Origin(
        source=source,
        checksum=image.checksum or told.checksum,
        size_bytes=image.size_bytes or told.size,
        target=service.file(source.image_id),
        renew=lambda: service.renewed(source.image_id or ""),
    )


def fetch(origin: Origin, part: Part, call: Call, *, most: int) -> None:
    """Fill ``part``.

    :param call: runs a function in a native thread
    :param most: bytes that the agent takes
    :raises ImageUnavailable: if it can't be had whole
    :raises ImageTooLarge: if it is over the limit
    :raises DiskFull: if there is no room for it
    :raises Cancelled: when the operation is cancelled; :raises Timeout: when its deadline passes
    """
    limit = Limit(origin.size_bytes, most)
    if origin.target is None:
        _copy(origin.source, part, call, limit)
    else:
        Download(origin.target, part, call, limit, origin.renew).run()


def _copy(source: Source, part: Part, call: Call, limit: Limit) -> None:
    work = steps.current()
    with contextlib.ExitStack() as stack:
        file = call(stack.enter_context, sources.open_file(source))
        limit.check(file.size)
        check_room(min(file.size, file.allocated), part)
        while call(part.copy_from, file.fd, CHUNK_BYTES):
            failpoints.hit("images.fetch.chunk")
            work.report(part.size, file.size)
            work.check()
            limit.check(part.size)
        _check_unchanged(source, file, part)


def _check_unchanged(source: Source, file: OpenFile, part: Part) -> None:
    if file.changed() or part.size != file.size:
        raise errors.ImageUnavailable(f"{sources.shown(source.url)}: it was changed while it was read")
