# SPDX-License-Identifier: Apache-2.0
"""Rescue: run an instance from another image to mend its disk."""

from compute_agent.manager.manager import Manager, request_context
from compute_agent.model.states import InstanceState as S
from compute_agent.operations.verbs import Job, OnFailure, Outcome, verb


@verb(
    "rescue",
    starts_from=frozenset({S.ACTIVE, S.STOPPED, S.ERROR}),
    already=frozenset({S.RESCUED}),
    lifecycle=("stopped", "started"),
    on_failure=OnFailure.AS_BEFORE,
    probe="the domain's first disk",
)
def rescue(manager: Manager, job: Job) -> Outcome:
    """Start an instance from a rescue image, its own disk second."""
    instance = job.instance.instance
    wanted = job.arguments
    manager.driver.rescue(
        request_context(),
        instance,
        instance.network_info,
        wanted.rescue_image or instance.image,
        wanted.rescue_password,
    )
    return Outcome(state=S.RESCUED)


@verb(
    "unrescue",
    starts_from=frozenset({S.RESCUED}),
    already=frozenset({S.ACTIVE}),
    lifecycle=("stopped", "started"),
    probe="the domain's first disk",
)
def unrescue(manager: Manager, job: Job) -> Outcome:
    """Start a rescued instance from its own disk again."""
    instance = job.instance.instance
    manager.driver.unrescue(instance, instance.network_info)
    return Outcome(follow=True)
