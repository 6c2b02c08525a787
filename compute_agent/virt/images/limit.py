# SPDX-License-Identifier: Apache-2.0
"""How large an image may be, and whether there is room for it."""

import dataclasses

from compute_agent.model import errors
from compute_agent.virt.images import qemu_img
from compute_agent.virt.images.part import Part


@dataclasses.dataclass(frozen=True)
class Limit:
    """How many bytes may come.

    :param told: how many the sender said there are; 0 if it did not say
    :param most: how many the agent takes
    """

    told: int
    most: int

    def check(self, size: int) -> None:
        """Say whether ``size`` may be.

        :raises ImageUnavailable: if it is more than was told
        :raises ImageTooLarge: if it is more than the agent takes
        """
        if self.told and size > self.told:
            raise errors.ImageUnavailable(f"the image has {size} bytes or more, size_bytes says {self.told}")
        if size > self.most:
            raise errors.ImageTooLarge(f"the image is over {self.most} bytes")


def check_room(needed: int, part: Part) -> None:
    """Say whether ``needed`` more bytes fit beside ``part``.

    :raises DiskFull: if they do not
    """
    free = qemu_img.free_bytes(part.path)
    if needed > free:
        raise errors.DiskFull(f"the image takes {needed} bytes, {free} are free at {part.final}")
