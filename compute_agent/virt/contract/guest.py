# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="empty-body"
"""Guest: what reaches inside, through its agent, its devices or its description."""

from collections.abc import Mapping, Sequence

from compute_agent.model.instance import Instance
from compute_agent.virt.contract.base import Base, Context, unsupported


class Guest(Base):
    """Passwords, files, metadata, memory, interrupts."""

    @unsupported
    def set_admin_password(self, instance: Instance, new_pass: str) -> None:
        """Set the administrator's password in a running guest.

        :raises GuestAgentUnavailable: if the guest's agent does not answer
        :raises InvalidState: if it does not run

        Contract: Diablo, Icehouse, Mitaka, Queens.
        """

    @unsupported
    def inject_file(self, instance: Instance, b64_path: str, b64_contents: str) -> None:
        """Write a file in a running guest; path and contents in Base64.

        :raises InvalidArguments: if either is not Base64
        :raises GuestAgentUnavailable: if the guest's agent does not answer
        :raises InvalidState: if it does not run

        Contract: Diablo, Icehouse, Mitaka, Queens.
        """

    @unsupported
    def change_instance_metadata(
        self, context: Context, instance: Instance, diff: Mapping[str, Sequence[str]]
    ) -> None:
        """Tell the guest's description that its metadata changed.

        :param instance: with its metadata as it is now
        :param diff: ``{key: ["+", value]}`` for what was set, ``{key: ["-"]}`` for what was struck
        :raises InstanceNotFound: if there is no such guest

        Contract: Icehouse, Mitaka, Queens.
        """

    @unsupported
    def trigger_crash_dump(self, instance: Instance) -> None:
        """Inject a non-maskable interrupt into a running guest.

        :raises InvalidState: if it does not run

        Contract: Mitaka, Queens.
        """

    @unsupported
    def balloon_memory(self, instance: Instance, memory_mb: int) -> None:
        """Change a running guest's memory, between its flavor's smallest and largest; MiB.

        :raises InvalidArguments: if the flavor does not allow that much, or so little
        :raises InvalidState: if the guest does not run

        Our own, for Ganeti's BalloonInstanceMemory.
        """
