# SPDX-License-Identifier: Apache-2.0
"""A post-copy that broke off, at its source: how long it is waited for.

A part of the guest's memory is here and the guest is there, so neither half is worth anything without the
other. The halves are joined again (``plan.mending``) as long as there is hope; after that both are ended.
"""

import contextlib
import time
from typing import Any

from compute_agent import concurrency
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.handshake import Fact
from compute_agent.model.instance import Instance
from compute_agent.virt.libvirt.migration import transfer
from compute_agent.virt.libvirt.migration.base import LibvirtMigrationBase
from compute_agent.virt.virtapi import VirtAPI


class Stall:
    """How long nothing has come over. Pure.

    :param now: when it began, as :func:`time.monotonic` tells it
    """

    def __init__(self, now: float) -> None:
        self._since = now
        self._remaining: int | None = None

    def note(self, remaining: int | None, now: float) -> float:
        """Take down what is left; return for how many seconds it was the same.

        :param remaining: in bytes; None: that can't be read, and is no news
        """
        if remaining is not None and remaining != self._remaining:
            self._since, self._remaining = now, remaining
        return now - self._since


class LibvirtBrokenPostCopy(LibvirtMigrationBase):
    """What the source's part of a live migration knows of post-copies that broke off."""

    def __init__(self, virtapi: VirtAPI) -> None:
        super().__init__(virtapi)
        self._stalls: dict[str, Stall] = {}

    def see_migration(self, instance: Instance, at_source: bool) -> Fact:
        """As at both ends. What is left of a post-copy that is not waited for any more counts as gone."""
        fact = super().see_migration(instance, at_source)
        if fact is Fact.SPENT and self._note_stall(instance.uuid) >= _patience_s():
            return Fact.OFF
        return fact

    def _note_stall(self, uuid: str) -> float:
        """Take down what is left of a post-copy; return for how many seconds nothing has come over.

        As long as something does, only the two libvirtd have lost each other. QEMU at the destination may
        hang, in wait for the very memory that it is to be told of. It has to be ended before what is here is:
        libvirt 9 keeps the job for ever if this end goes while it is mended.
        """
        found: dict[str, Any] = {}
        with contextlib.suppress(errors.ComputeError, concurrency.TimedOut):
            found = self._host.ask_monitor(uuid, transfer.statistics)
        now = time.monotonic()
        return self._stalls.setdefault(uuid, Stall(now)).note(found.get("memory_remaining"), now)

    def _forget_stall(self, uuid: str) -> None:
        self._stalls.pop(uuid, None)


def _patience_s() -> float:
    return float(CONF.libvirt.live_migration_post_copy_recovery)
