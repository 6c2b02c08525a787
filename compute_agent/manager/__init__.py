# SPDX-License-Identifier: Apache-2.0
"""What each verb and each question means for an instance or the host.

Verbs are declared beside the functions that do them, one module per concern; :data:`TABLE`
puts them together.
"""

from collections.abc import Mapping

from compute_agent.manager import (
    adoption,
    confirming,
    control,
    draining,
    guest,
    host,
    lifecycle,
    migration,
    network,
    power,
    rescue,
    snapshots,
    storage,
)
from compute_agent.operations.verbs import Verb, table

TABLE: Mapping[str, Verb] = table(
    lifecycle,
    power,
    rescue,
    storage,
    snapshots,
    network,
    migration,
    confirming,
    guest,
    adoption,
    control,
    host,
    draining,
)
"""Every verb of the interface."""
