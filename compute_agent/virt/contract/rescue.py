# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="empty-body"
"""Rescue: a guest runs from another image, so that its own disk can be mended."""

from compute_agent.model.image import Image
from compute_agent.model.instance import Instance
from compute_agent.virt.contract.base import Base, Context, NetworkInfo, unsupported


class Rescue(Base):
    """Rescue and unrescue, an exact pair."""

    @unsupported
    def rescue(
        self,
        context: Context,
        instance: Instance,
        network_info: NetworkInfo,
        image_meta: Image | None,
        rescue_password: str | None,
    ) -> None:
        """Restart a guest from ``image_meta``, its own root disk as the second one.

        :param rescue_password: the administrator's in the rescue system
        :raises InstanceNotFound: if there is no such guest

        Contract: Diablo, Icehouse, Mitaka, Queens.
        """

    @unsupported
    def unrescue(self, instance: Instance, network_info: NetworkInfo) -> None:
        """Restart a rescued guest from its own disk; nothing of the rescue remains.

        :raises InstanceNotFound: if there is no such guest

        Contract: Diablo, Icehouse, Mitaka, Queens.
        """
