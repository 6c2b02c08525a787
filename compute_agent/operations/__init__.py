# SPDX-License-Identifier: Apache-2.0
"""Running what the journal holds: the engine, its lanes and limits, the runner, and an operation's turns.

What a verb *is* stands in a :class:`~compute_agent.operations.verbs.Verb`, declared by the manager
beside the function that does it. The engine knows nothing of hypervisors.
"""
