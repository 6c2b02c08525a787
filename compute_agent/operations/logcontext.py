# SPDX-License-Identifier: Apache-2.0
"""Whose log lines these are: request id and instance on each line that an operation writes."""

from collections.abc import Iterator
from contextlib import contextmanager

from oslo_context import context

from compute_agent.model.operation import Operation


@contextmanager
def logging_as(operation: Operation) -> Iterator[None]:
    """Mark the log lines of this greenthread as the operation's."""
    previous = context.get_current()
    context.RequestContext(
        request_id=operation.context.get("request_id") or f"op-{operation.operation_id}",
        project_id=operation.context.get("project_id"),
        user_id=operation.context.get("user_id"),
        resource_uuid=operation.instance_uuid,
        overwrite=True,
    )
    try:
        yield
    finally:
        if previous is not None:
            previous.update_store()
        else:
            context._request_store.__dict__.pop("context", None)
