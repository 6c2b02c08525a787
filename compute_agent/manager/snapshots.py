# SPDX-License-Identifier: Apache-2.0
"""Snapshots of an instance to a file or an HTTP server."""

from typing import Any

from compute_agent import steps
from compute_agent.manager.manager import Manager, request_context
from compute_agent.model.states import InstanceState as S
from compute_agent.operations.verbs import Job, Outcome, Recovery, verb


@verb(
    "snapshot",
    starts_from=frozenset({S.ACTIVE, S.PAUSED, S.SUSPENDED, S.STOPPED}),
    limit="max_concurrent_snapshots",
    recovery=Recovery.UNDONE,
    probe="none: whether an upload arrived can't be seen; block job and files are",
)
def snapshot(manager: Manager, job: Job) -> Outcome:
    """Copy an instance's disk to ``destination``; a running guest goes on running."""

    def update_task_state(task_state: Any, **_expected: Any) -> None:
        steps.current().check()

    result = manager.driver.snapshot(
        request_context(), job.instance.instance, job.arguments.destination, update_task_state
    )
    return Outcome(dict(result or {}))
