# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="empty-body"
"""Snapshots: copies of an instance's disk, and points in a volume's chain."""

from collections.abc import Callable, Mapping
from typing import Any

from compute_agent.model.image import Image
from compute_agent.model.instance import Instance
from compute_agent.virt.contract.base import Base, Context, unsupported


class Snapshots(Base):
    """Snapshots of instances and volumes; quiesce and unquiesce, an exact pair."""

    @unsupported
    def snapshot(
        self, context: Context, instance: Instance, image_id: Any, update_task_state: Callable[..., Any]
    ) -> dict[str, Any] | None:
        """Copy the instance's disk to a destination. A guest that ran goes on running.

        :param image_id: where the copy goes: a :class:`~compute_agent.model.arguments.Destination`
        :param update_task_state: called with ``task_state=`` (and ``expected_state=``) as it moves on:
            ``image_pending_upload``, then ``image_uploading``; what it raises ends the snapshot
        :return: what was made (``size_bytes``, ``checksum``, …), for the operation's result
        :raises InstanceNotFound: if there is no such guest

        Contract: Diablo, Icehouse, Mitaka, Queens.
        """

    @unsupported
    def post_interrupted_snapshot_cleanup(self, context: Context, instance: Instance) -> None:
        """Remove the files and block jobs that an interrupted snapshot left. Safe to repeat.

        Contract: Mitaka, Queens.
        """

    @unsupported
    def volume_snapshot_create(
        self, context: Context, instance: Instance, volume_id: str, create_info: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """Take a snapshot of a volume, as its storage service asks.

        :param create_info: ``snapshot_id``, ``type`` (``qcow2``), ``new_file``
        :return: what has changed in the ``data`` of the volume's ``connection_info``, if the driver knows
        :raises InstanceNotFound: if there is no such guest
        :raises VolumeUnavailable: if the volume is not attached

        Contract: Icehouse, Mitaka, Queens.
        """

    @unsupported
    def volume_snapshot_delete(
        self,
        context: Context,
        instance: Instance,
        volume_id: str,
        snapshot_id: str,
        delete_info: Mapping[str, Any],
    ) -> dict[str, Any] | None:
        """Merge a snapshot of a volume back. One that is not there is success.

        :param delete_info: ``type``, ``file_to_merge``, ``merge_target_file``, ``volume_id``
        :return: as of :meth:`volume_snapshot_create`
        :raises InstanceNotFound: if there is no such guest
        :raises VolumeUnavailable: if the volume is not attached

        Contract: Icehouse, Mitaka, Queens.
        """

    @unsupported
    def quiesce(self, context: Context, instance: Instance, image_meta: Image | None) -> None:
        """Freeze the guest's file systems, so that a snapshot is consistent.

        :raises QuiesceNotSupported: if the guest has no agent
        :raises InvalidState: if it does not run

        Contract: Mitaka, Queens.
        """

    @unsupported
    def unquiesce(
        self, context: Context, instance: Instance, image_meta: Image | None
    ) -> dict[str, Any] | None:
        """Thaw the guest's file systems.

        :return: for the operation's result: how many ``filesystems`` were thawed, and whether the freeze had
            ``expired``, so that they were thawed before
        :raises QuiesceNotSupported: if the guest has no agent
        :raises InvalidState: if it does not run

        Contract: Mitaka, Queens.
        """
