# SPDX-License-Identifier: Apache-2.0
"""What each verb does from each state: one table, run against every driver.

The states are those that a guest of one host can be in. ``reach`` says how it gets there; a
row says which lifecycle events the verb causes and where the instance is afterwards. A pair
that is not in the table must be refused with ``InvalidState``.
"""

import dataclasses

STARTED, STOPPED, PAUSED, RESUMED, SUSPENDED = "started", "stopped", "paused", "resumed", "suspended"

REACH: dict[str, list[tuple[str, dict[str, object]]]] = {
    "active": [],
    "paused": [("pause", {})],
    "suspended": [("suspend", {})],
    "stopped": [("power_off", {"timeout": 0})],
    "rescued": [("rescue", {})],
    "soft_deleted": [("soft_delete", {})],
}
"""The verbs that bring a running instance into a state."""

POWER = {"active": 1, "paused": 3, "suspended": 7, "stopped": 4, "rescued": 1, "soft_deleted": 4}
"""The power state that is reported in a state; see the contract."""

ARGUMENTS: dict[str, dict[str, object]] = {"power_off": {"timeout": 0}, "reboot": {"reboot_type": "HARD"}}


@dataclasses.dataclass(frozen=True)
class Row:
    """A verb from a state: its lifecycle events, and the state afterwards (None: gone).

    :param power: the power state afterwards; None: the state's own
    """

    verb: str
    state: str
    lifecycle: tuple[str, ...]
    after: str | None
    power: int | None = None


def _row(verb: str, state: str, after: str | None, *lifecycle: str, power: int | None = None) -> Row:
    return Row(verb, state, lifecycle, after, power)


ROWS = (
    _row("power_on", "stopped", "active", STARTED),
    _row("power_on", "active", "active"),
    _row("power_off", "active", "stopped", STOPPED),
    _row("power_off", "paused", "stopped", STOPPED),
    _row("power_off", "suspended", "stopped"),
    _row("power_off", "stopped", "stopped"),
    _row("power_off", "rescued", "rescued", STOPPED, power=4),
    _row("reboot", "active", "active", STOPPED, STARTED),
    _row("reboot", "paused", "active", STOPPED, STARTED),
    _row("reboot", "suspended", "active", STARTED),
    _row("reboot", "stopped", "active", STARTED),
    _row("reboot", "rescued", "rescued", STOPPED, STARTED),
    _row("pause", "active", "paused", PAUSED),
    _row("pause", "paused", "paused"),
    _row("unpause", "paused", "active", RESUMED),
    _row("unpause", "active", "active"),
    _row("suspend", "active", "suspended", SUSPENDED),
    _row("suspend", "paused", "suspended", SUSPENDED),
    _row("suspend", "suspended", "suspended"),
    _row("resume", "suspended", "active", RESUMED),
    _row("resume", "active", "active"),
    _row("destroy", "active", None, STOPPED),
    _row("destroy", "paused", None, STOPPED),
    _row("destroy", "suspended", None),
    _row("destroy", "stopped", None),
    _row("destroy", "rescued", None, STOPPED),
    _row("destroy", "soft_deleted", None),
    _row("rescue", "active", "rescued", STOPPED, STARTED),
    _row("rescue", "stopped", "rescued", STARTED),
    _row("rescue", "rescued", "rescued"),
    _row("unrescue", "rescued", "active", STOPPED, STARTED),
    _row("unrescue", "active", "active"),
    _row("rebuild", "active", "active", STOPPED, STARTED),
    _row("rebuild", "stopped", "active", STARTED),
    _row("soft_delete", "active", "soft_deleted", STOPPED),
    _row("soft_delete", "stopped", "soft_deleted"),
    _row("soft_delete", "soft_deleted", "soft_deleted"),
    _row("restore", "soft_deleted", "active", STARTED),
    _row("restore", "active", "active"),
)

VERBS = sorted({row.verb for row in ROWS})
ALLOWED = {(row.verb, row.state) for row in ROWS}
REFUSED = [(verb, state) for verb in VERBS for state in REACH if (verb, state) not in ALLOWED]
