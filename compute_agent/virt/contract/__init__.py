# SPDX-License-Identifier: Apache-2.0
"""The driver contract, one module per concern.

It is the union of five published contracts: the compute-driver base classes of OpenStack's
Diablo (2011), Icehouse (2014), Mitaka (2016) and Queens (2018), and Ganeti's ``BaseHypervisor``. The
newest form of a member is the one that counts; what only older contracts have is translated in
``compat``. Parameter names, order and defaults are part of the contract: drivers written
elsewhere are called with keywords.

Each concern is a class that a driver inherits and fills in. A member that has no meaningful
default raises :class:`~compute_agent.model.errors.UnsupportedOperation` naming itself.
"""
