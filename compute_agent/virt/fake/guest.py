# SPDX-License-Identifier: Apache-2.0
"""Guest: what reaches inside a fake guest."""

import base64
import binascii
from collections.abc import Mapping, Sequence

from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.virt.contract.base import Context
from compute_agent.virt.fake import storage
from compute_agent.virt.fake.base import FakeBase
from compute_agent.virt.fake.described import describe
from compute_agent.virt.fake.world import Domain


class FakeGuest(FakeBase):
    """The guest concern. A guest has an agent if its image says so (``hw_qemu_guest_agent``)."""

    def set_admin_password(self, instance: Instance, new_pass: str) -> None:
        """Set the administrator's password; only a digest of it is kept."""
        self._with_agent(instance)
        self.hypervisor.effect("password", instance.uuid, domain={"password": storage.digest(new_pass)})

    def inject_file(self, instance: Instance, b64_path: str, b64_contents: str) -> None:
        """Write a file; only a digest of its contents is kept."""
        domain = self._with_agent(instance)
        path = _decoded(b64_path).decode("utf-8", "surrogateescape")
        contents = storage.digest(_decoded(b64_contents).hex())
        self.hypervisor.effect("file", instance.uuid, domain={"files": {**domain.files, path: contents}})

    def change_instance_metadata(
        self, context: Context, instance: Instance, diff: Mapping[str, Sequence[str]]
    ) -> None:
        """Tell the description that the metadata changed."""
        self.hypervisor.get(instance.uuid)
        described = describe(instance.named())
        self.hypervisor.effect("describe", instance.uuid, domain={"described": described})

    def trigger_crash_dump(self, instance: Instance) -> None:
        """Inject an interrupt."""
        domain = self.hypervisor.running(instance.uuid)
        self.hypervisor.effect("interrupt", instance.uuid, domain={"interrupts": domain.interrupts + 1})

    def balloon_memory(self, instance: Instance, memory_mb: int) -> None:
        """Change a running guest's memory."""
        domain = self.hypervisor.running(instance.uuid)
        wanted = memory_mb * 1024
        if not max(domain.min_mem_kb, 1) <= wanted <= domain.max_mem_kb:
            raise errors.InvalidArguments(
                f"the flavor allows {domain.min_mem_kb // 1024} to {domain.max_mem_kb // 1024} MiB"
            )
        free = self.hypervisor.size.memory_mb * 1024 - self.hypervisor.world.memory_kb
        if wanted - domain.mem_kb > free:
            raise errors.InsufficientResources(f"the host has {free // 1024} MiB left")
        if wanted != domain.mem_kb:
            self.hypervisor.effect("balloon", instance.uuid, domain={"mem_kb": wanted})

    def _with_agent(self, instance: Instance) -> Domain:
        domain = self.hypervisor.running(instance.uuid)
        if not domain.has_agent:
            raise errors.GuestAgentUnavailable("the guest has no agent", retryable=False)
        return domain


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise errors.InvalidArguments("not Base64") from None
