# SPDX-License-Identifier: Apache-2.0
"""Verbs that act on what runs, at once."""

from compute_agent.manager.manager import Manager
from compute_agent.model import errors
from compute_agent.model.operation import Lane
from compute_agent.operations.verbs import Job, Outcome, verb
from compute_agent.store import journal


@verb("cancel_operation", lane=Lane.CONTROL, probe="the target's record")
def cancel_operation(manager: Manager, job: Job) -> Outcome:
    """Cancel an operation; one that has not been seen yet will end cancelled when it comes."""
    target = job.arguments.target
    operation = manager.engine.cancel(target)
    if operation is None and manager.store.insist(lambda tx: journal.cancel_in_advance(tx, target)):
        return Outcome({"target": target, "state": "not seen yet: it ends cancelled when it comes"})
    operation = operation or manager.engine.cancel(target)  # it has come since
    if operation is None:
        raise errors.TooLate(f"operation {target} was done, and its record has been aged out")
    return Outcome({"target": target, "state": operation.state.value})


@verb("external_event", lane=Lane.CONTROL, optional=True, probe="the wait that it ends")
def external_event(manager: Manager, job: Job) -> Outcome:
    """Tell an instance's operation that something outside has happened, such as a plugged VIF."""
    wanted = job.arguments
    awaited = manager.external_events.arrived(wanted.instance_uuid, wanted.name, wanted.tag, wanted.status)
    return Outcome({"awaited": awaited})
