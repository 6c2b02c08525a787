# SPDX-License-Identifier: Apache-2.0
"""A flavor: how much of the host an instance gets."""

from typing import Annotated

import msgspec
from msgspec import Meta

from compute_agent.model.fields import LongText, Text


class Flavor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes of an instance. Memory in MiB, disks in GiB, swap in MiB."""

    vcpus: Annotated[int, Meta(ge=1, le=4096)]
    memory_mb: Annotated[int, Meta(ge=1, le=2**26)]
    min_memory_mb: Annotated[int, Meta(ge=1, le=2**26)] | None = None
    root_gb: Annotated[int, Meta(ge=0, le=2**20)] = 0
    ephemeral_gb: Annotated[int, Meta(ge=0, le=2**20)] = 0
    swap_mb: Annotated[int, Meta(ge=0, le=2**30)] = 0
    extra_specs: dict[Text, LongText] = {}
