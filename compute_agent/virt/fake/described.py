# SPDX-License-Identifier: Apache-2.0
"""The description that a fake guest carries: its instance as plain data, without the secrets."""

from collections.abc import Mapping
from typing import Any

import msgspec

from compute_agent.model.instance import Instance
from compute_agent.model.secrets import HIDDEN, redacted
from compute_agent.virt.fake.world import Domain
from compute_agent.virt.info import Description

DIRECT = "direct:"
"""What tokens begin with where no operation runs."""


def describe(instance: Instance) -> dict[str, Any]:
    """Return an instance as plain data, its secrets left out."""
    plain: dict[str, Any] = _shown(redacted(instance))
    return plain


def _shown(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _shown(item) for key, item in value.items() if item != HIDDEN}
    if isinstance(value, list):
        return [_shown(item) for item in value]
    return value


def read(domain: Domain) -> Description | None:
    """Return what a guest's description says; None if it has none."""
    if domain.described is None:
        return None
    try:
        instance = msgspec.convert(domain.described, Instance)
    except msgspec.ValidationError:
        instance = None
    return Description(
        uuid=domain.uuid,
        name=domain.name,
        instance=instance,
        generation=domain.generation,
        operation_id=domain.token if not direct(domain.token) else None,
        power_state=domain.power,
        rescued=domain.own_devices is not None,
    )


def direct(token: str | None) -> bool:
    """Return whether a token is of a direct call, not of an operation."""
    return token is None or token.startswith(DIRECT)
