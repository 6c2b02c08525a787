# SPDX-License-Identifier: Apache-2.0
"""Snapshots of instances (see :mod:`snapshot`), and their file systems, frozen and thawed."""

import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Any

from compute_agent import concurrency, steps
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.image import Image
from compute_agent.model.instance import Instance
from compute_agent.virt.contract.base import Context
from compute_agent.virt.libvirt import copies, mirror
from compute_agent.virt.libvirt.base import LibvirtBase
from compute_agent.virt.libvirt.guestagent import Freezer
from compute_agent.virt.libvirt.snapshot import Snapshot
from compute_agent.virt.virtapi import VirtAPI

LOG = logging.getLogger(__name__)


class LibvirtSnapshots(LibvirtBase):
    """The snapshots concern."""

    def __init__(self, virtapi: VirtAPI) -> None:
        super().__init__(virtapi)
        self._freezer = Freezer(self._host, self._instances_path, self._file_threads)

    def init_host(self, host: str) -> None:
        """Connect to libvirt; what an earlier process has frozen is thawed in time, its copies are removed.

        What is found now is an earlier process' own: this one has not begun a snapshot yet.
        """
        left = self._file_threads.call(copies.left, self._instances_path)
        super().init_host(host)
        self._freezer.take_over()
        if left:
            concurrency.spawn(self._clear, left)

    def _clear(self, left: Mapping[str, list[str]]) -> None:
        for found, paths in left.items():
            LOG.info("instance %s: an earlier process has left %s", found, ", ".join(paths))
            try:
                with contextlib.suppress(errors.InstanceNotFound):
                    self._host.act_guest(found, mirror.end_all, paths.__contains__)
                self._file_threads.call(copies.unlink, paths)
            except errors.ComputeError as error:  # the next snapshot does it
                LOG.warning("copies of instance %s stay: %s", found, error.message)

    def snapshot(
        self, context: Context, instance: Instance, image_id: Any, update_task_state: Callable[..., Any]
    ) -> dict[str, Any]:
        """Copy the instance's root disk to a destination. A guest that ran goes on running."""
        work = Snapshot(self, instance, image_id, update_task_state)
        steps.run(work.steps())
        return work.result()

    def post_interrupted_snapshot_cleanup(self, context: Context, instance: Instance) -> None:
        """End the block job and remove the files that an interrupted snapshot left; thaw the guest."""
        copies.clear(self, instance)

    def quiesce(self, context: Context, instance: Instance, image_meta: Image | None) -> None:
        """Freeze the guest's file systems, for ``[libvirt] freeze_limit`` seconds at most."""
        self._freezer.freeze(instance.uuid, float(CONF.libvirt.freeze_limit), held=True)

    def unquiesce(self, context: Context, instance: Instance, image_meta: Image | None) -> dict[str, Any]:
        """Thaw the guest's file systems; say whether that was due before."""
        return self._freezer.thaw(instance.uuid)
