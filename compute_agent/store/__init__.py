# SPDX-License-Identifier: Apache-2.0
"""The state file: what the agent must not forget.

One SQLite file, written by one native thread that commits what has gathered in groups. Rooms
above hand it functions of a :class:`~compute_agent.store.database.Transaction`; the modules
here hold the statements: journal, outbox, instances, host.
"""
