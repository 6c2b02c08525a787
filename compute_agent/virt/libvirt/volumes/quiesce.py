# SPDX-License-Identifier: Apache-2.0
"""Freezing a guest's file systems around the moment of a snapshot, when its agent answers."""

import contextlib
import logging
from collections.abc import Iterator

from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.virt.libvirt.guestagent import Freezer
from compute_agent.virt.libvirt.properties import Properties

LOG = logging.getLogger(__name__)

_YES = frozenset({"yes", "true", "1", "on", "y", "t"})


class Quiescer:
    """Freezes and thaws guests."""

    def __init__(self, freezer: Freezer) -> None:
        self._freezer = freezer

    @contextlib.contextmanager
    def quiesced(self, instance: Instance) -> Iterator[None]:
        """Run a block on a frozen guest; on one that is not, if it can't be frozen and need not be.

        :raises QuiesceNotSupported, GuestAgentUnavailable: if it can't be, and the image wants it
            (``os_require_quiesce``)
        """
        if not (_is_required(instance) or Properties.of(instance).guest_agent):
            yield
            return
        try:
            self._freezer.freeze(instance.uuid, float(CONF.libvirt.freeze_limit))
        except (errors.QuiesceNotSupported, errors.GuestAgentUnavailable, errors.InvalidState) as error:
            if _is_required(instance):
                raise
            LOG.warning("the snapshot of a volume of %s is not quiesced: %s", instance.uuid, error.message)
            yield
            return
        try:
            yield
        finally:
            self._freezer.thaw_surely(instance.uuid)


def _is_required(instance: Instance) -> bool:
    told = instance.image.properties.get("os_require_quiesce", "") if instance.image is not None else ""
    return told.strip().lower() in _YES
