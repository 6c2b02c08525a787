# SPDX-License-Identifier: Apache-2.0
"""Verbs that reach into a guest: through its agent, its devices or its description."""

import msgspec

from compute_agent.manager.manager import Manager, request_context
from compute_agent.model.instance import InstanceRecord
from compute_agent.model.states import InstanceState as S
from compute_agent.operations.verbs import Job, Outcome, Recovery, verb

RUNS = frozenset({S.ACTIVE})
NOT_SEEN = "none: the effect is inside the guest"


@verb("set_admin_password", starts_from=RUNS, recovery=Recovery.INTERRUPTED, probe=NOT_SEEN)
def set_admin_password(manager: Manager, job: Job) -> Outcome:
    """Set the administrator's password through the guest agent."""
    manager.driver.set_admin_password(job.instance.instance, job.arguments.new_pass)
    return Outcome()


@verb("inject_file", starts_from=RUNS, recovery=Recovery.INTERRUPTED, probe=NOT_SEEN)
def inject_file(manager: Manager, job: Job) -> Outcome:
    """Write a file into a running guest."""
    wanted = job.arguments
    manager.driver.inject_file(job.instance.instance, wanted.b64_path, wanted.b64_contents)
    return Outcome()


@verb("change_instance_metadata", starts_from=frozenset(S) - {S.GONE, S.BUILDING}, probe="the record")
def change_instance_metadata(manager: Manager, job: Job) -> Outcome:
    """Set (``["+", value]``) and strike (``["-"]``) keys of the instance's metadata."""
    diff = job.arguments.diff

    def change(record: InstanceRecord) -> InstanceRecord:
        metadata = {key: value for key, value in record.instance.metadata.items() if key not in diff}
        metadata |= {key: action[1] for key, action in diff.items() if action[0] == "+" and len(action) == 2}
        return msgspec.structs.replace(
            record, instance=msgspec.structs.replace(record.instance, metadata=metadata)
        )

    manager.driver.change_instance_metadata(request_context(), change(job.instance).instance, diff)
    return Outcome(change=change)


@verb("trigger_crash_dump", starts_from=RUNS, recovery=Recovery.INTERRUPTED, probe=NOT_SEEN)
def trigger_crash_dump(manager: Manager, job: Job) -> Outcome:
    """Inject an NMI, which makes a prepared guest write a crash dump."""
    manager.driver.trigger_crash_dump(job.instance.instance)
    return Outcome()


@verb("quiesce", starts_from=RUNS, probe="the guest agent's freeze status")
def quiesce(manager: Manager, job: Job) -> Outcome:
    """Freeze the guest's file systems."""
    instance = job.instance.instance
    manager.driver.quiesce(request_context(), instance, instance.image)
    return Outcome()


@verb("unquiesce", starts_from=RUNS, probe="the guest agent's freeze status")
def unquiesce(manager: Manager, job: Job) -> Outcome:
    """Thaw the guest's file systems."""
    instance = job.instance.instance
    result = manager.driver.unquiesce(request_context(), instance, instance.image)
    return Outcome(dict(result or {}))


@verb("balloon_memory", starts_from=RUNS, probe="the memory that get_info reports")
def balloon_memory(manager: Manager, job: Job) -> Outcome:
    """Change the memory of a running guest, within its flavor (MiB)."""
    manager.driver.balloon_memory(job.instance.instance, job.arguments.memory_mb)
    return Outcome()
