# SPDX-License-Identifier: Apache-2.0
"""Drivers: what does things at a hypervisor, behind one contract.

``contract`` holds the contract by concern and ``driver`` puts it together; each driver is a
package of its own with modules of the same names. A driver knows nothing of broker, journal or
store: what it may ask of the agent it asks :class:`compute_agent.virt.virtapi.VirtAPI`.
"""
