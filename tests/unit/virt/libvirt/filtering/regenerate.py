# SPDX-License-Identifier: Apache-2.0
"""Write the golden files anew: ``python -m tests.unit.virt.libvirt.filtering.regenerate``. Read the diff."""

from __future__ import annotations

import pathlib

from tests.unit.virt.libvirt.filtering.scenarios import SCENARIOS
from tests.unit.virt.libvirt.golden import rewrite

GOLDEN = pathlib.Path(__file__).parent / "golden"

if __name__ == "__main__":
    rewrite(GOLDEN, {name: make() for name, make in SCENARIOS.items()})
