# SPDX-License-Identifier: Apache-2.0
"""Verbs that switch an instance on and off, hold it and let it go on."""

from compute_agent.manager.manager import Manager, block_device_info, request_context
from compute_agent.model.operation import Origin
from compute_agent.model.states import InstanceState as S
from compute_agent.operations.verbs import Job, OnFailure, Outcome, verb
from compute_agent.store import handshakes

POWER_STATE = "the domain's power state"


@verb(
    "reboot",
    starts_from=frozenset({S.ACTIVE, S.PAUSED, S.SUSPENDED, S.STOPPED, S.RESCUED, S.RESIZED, S.ERROR}),
    lifecycle=("stopped", "started"),
    on_failure=OnFailure.ERROR,
    probe="the guest runs in another process than before",
)
def reboot(manager: Manager, job: Job) -> Outcome:
    """Restart an instance; SOFT asks the guest first, HARD does not. From ``error`` only HARD."""
    instance = job.instance.instance
    manager.driver.reboot(
        request_context(),
        instance,
        instance.network_info,
        job.arguments.reboot_type.value,
        block_device_info(instance),
    )
    return _as_it_runs(manager, job)


@verb(
    "power_on",
    starts_from=frozenset({S.STOPPED, S.RESIZED}),
    already=frozenset({S.ACTIVE}),
    lifecycle=("started",),
    probe=POWER_STATE,
)
def power_on(manager: Manager, job: Job) -> Outcome:
    """Start an instance that is off."""
    instance = job.instance.instance
    by_agent = job.operation.origin is Origin.AGENT
    start = manager.driver.resume_state_on_host_boot if by_agent else manager.driver.power_on
    start(request_context(), instance, instance.network_info, block_device_info(instance))
    return _as_it_runs(manager, job)


@verb(
    "power_off",
    starts_from=frozenset({S.ACTIVE, S.PAUSED, S.SUSPENDED, S.RESCUED, S.RESIZED, S.ERROR}),
    already=frozenset({S.STOPPED}),
    lifecycle=("stopped",),
    probe=POWER_STATE,
)
def power_off(manager: Manager, job: Job) -> Outcome:
    """Ask the guest to shut down, and pull the plug after ``timeout`` seconds."""
    wanted = job.arguments
    manager.driver.power_off(job.instance.instance, wanted.timeout, wanted.retry_interval)
    return Outcome(state=_special(manager, job) or S.STOPPED)


@verb(
    "pause",
    starts_from=frozenset({S.ACTIVE}),
    already=frozenset({S.PAUSED}),
    lifecycle=("paused",),
    probe=POWER_STATE,
)
def pause(manager: Manager, job: Job) -> Outcome:
    """Hold the guest's processors; its memory stays."""
    manager.driver.pause(job.instance.instance)
    return Outcome()


@verb(
    "unpause",
    starts_from=frozenset({S.PAUSED}),
    already=frozenset({S.ACTIVE}),
    lifecycle=("resumed",),
    probe=POWER_STATE,
)
def unpause(manager: Manager, job: Job) -> Outcome:
    """Let a paused guest go on."""
    manager.driver.unpause(job.instance.instance)
    return Outcome(follow=True)


@verb(
    "suspend",
    starts_from=frozenset({S.ACTIVE, S.PAUSED}),
    already=frozenset({S.SUSPENDED}),
    lifecycle=("suspended",),
    probe="the saved memory at the hypervisor",
)
def suspend(manager: Manager, job: Job) -> Outcome:
    """Write the guest's memory to disk and free it; survives a restart of the host."""
    manager.driver.suspend(request_context(), job.instance.instance)
    return Outcome(state=S.SUSPENDED)


@verb(
    "resume",
    starts_from=frozenset({S.SUSPENDED}),
    already=frozenset({S.ACTIVE}),
    lifecycle=("resumed",),
    probe=POWER_STATE,
)
def resume(manager: Manager, job: Job) -> Outcome:
    """Let a suspended guest go on from where it was."""
    instance = job.instance.instance
    manager.driver.resume(request_context(), instance, instance.network_info, block_device_info(instance))
    return Outcome(follow=True)


def _as_it_runs(manager: Manager, job: Job) -> Outcome:
    return Outcome(state=_special(manager, job), follow=True)


def _special(manager: Manager, job: Job) -> S | None:
    """A rescued or resized instance stays what it is while it is switched on and off.

    One that was resized is so again once it is fit again: what it may go back to is still set aside.
    """
    uuid, state = job.instance.uuid, job.instance.state
    if state is S.ERROR:
        held = manager.store.read(lambda tx: handshakes.held(tx, uuid))
        came = held is not None and held.destination == manager.identity.host
        return S.RESIZED if came else None
    return state if state in (S.RESCUED, S.RESIZED) else None
