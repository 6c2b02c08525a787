# SPDX-License-Identifier: Apache-2.0
"""The fake driver: the whole contract in memory, and honest about it.

It keeps the state of its guests, refuses what a hypervisor refuses, tells the same events and is
built of the same kind of steps as a real driver. It can be told to fail, to hang or to be slow at any
member and step (``faults``), and its guests can outlive the agent (``ledger``).

``world`` is what there is, ``hypervisor`` what can be done to it; on them stand the concerns, one
module each, as in every driver.
"""

from compute_agent.virt.fake.driver import FakeDriver

__all__ = ["FakeDriver"]
