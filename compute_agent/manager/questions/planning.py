# SPDX-License-Identifier: Apache-2.0
"""Questions before the act: are these arguments right, would this verb work, what would it do."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from compute_agent import steps
from compute_agent.manager.manager import Manager, block_device_info, request_context
from compute_agent.model import decode, errors, questions
from compute_agent.model.arguments import Arguments
from compute_agent.model.instance import Instance, InstanceRecord
from compute_agent.model.operation import Operation, OperationState
from compute_agent.operations import turns
from compute_agent.operations.verbs import Verb
from compute_agent.store import instances
from compute_agent.store.database import Transaction
from compute_agent.virt.info import Problem


def check_parameters(manager: Manager, asked: questions.CheckInstance) -> dict[str, Any]:
    """What is wrong with an instance's description, wherever it is to run."""
    instance = asked.instance.named()
    return {"problems": _reasons(instance.check) + _reasons(manager.driver.check_parameters, instance)}


def validate_parameters(manager: Manager, asked: questions.CheckInstance) -> dict[str, Any]:
    """Why an instance could not run on this host."""
    instance = asked.instance.named()
    problems = _reasons(instance.check) + _reasons(manager.driver.check_parameters, instance)
    return {"problems": problems + _reasons(manager.driver.validate_parameters, instance)}


def _reasons(check: Callable[..., list[Problem] | None], *arguments: Any) -> list[dict[str, Any]]:
    """Run a check that raises or returns problems; give both the same form."""
    try:
        found = check(*arguments)
    except errors.ComputeError as error:
        return [_told(error)]
    return [msgspec.to_builtins(problem) for problem in found or ()]


def _told(error: errors.ComputeError) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.to_builtins(error.to_error())
    return told


def plan(manager: Manager, asked: questions.Plan) -> dict[str, Any]:
    """What a verb would do, step by step, and every reason why it would fail. Does nothing of it.

    What stands against the verb hides no step: the steps are those that it would take without the problems,
    as far as they can be told.
    """
    verb = manager.table.get(asked.verb)
    if verb is None:
        raise errors.UnknownVerb(f"unknown verb: {asked.verb}")
    arguments = decode.arguments(asked.arguments, verb.arguments)
    problems, instance = _admission(manager, verb, arguments)
    supported = manager.supports(verb.name)
    if not supported:
        problems.append(_told(errors.UnsupportedOperation(f"the driver does not do {verb.name}")))
    if instance is not None and verb.makes:
        problems += _reasons(manager.driver.check_parameters, instance)
        problems += _reasons(manager.driver.validate_parameters, instance)
    planned: list[dict[str, Any]] = []
    if supported and (instance is not None or not (problems or verb.optional)):
        planned, unforeseen = _steps(manager, verb, arguments, instance)
        problems += unforeseen
    return {
        "verb": verb.name,
        "steps": planned,
        "problems": _once(problems),
        "lifecycle": list(verb.lifecycle),
        "bytes_to_fetch": sum(step.get("bytes", 0) for step in planned if not step["done"]),
    }


def _once(problems: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return ``problems`` without those that two checks found."""
    return list({(problem["code"], problem["message"]): problem for problem in reversed(problems)}.values())[
        ::-1
    ]


def _admission(
    manager: Manager, verb: Verb, arguments: Arguments
) -> tuple[list[dict[str, Any]], Instance | None]:
    """Return what stands against the verb's start, and the instance that it is about, if there is one."""
    identity = manager.identity
    operation = Operation(
        operation_id="plan",
        verb=verb.name,
        state=OperationState.ACCEPTED,
        host=identity.host,
        host_id=identity.host_id,
        instance_uuid=getattr(arguments, "instance_uuid", None),
    )

    def read(tx: Transaction) -> tuple[list[dict[str, Any]], Instance | None]:
        made = getattr(arguments, "instance", None)
        problems = _reasons(made.check) if made else []
        try:
            record = turns.admit(tx, verb, operation, arguments)
        except errors.ComputeError as error:
            problems.append(_told(error))
            record = None if made else _on_record(tx, operation.instance_uuid)
        if made is not None:
            return problems, made.named()
        return problems, record.instance if record else None

    return manager.store.read(read)


def _on_record(tx: Transaction, uuid: str | None) -> InstanceRecord | None:
    record = instances.find(tx, uuid) if uuid else None
    return None if record is None or record.gone else record


def _steps(
    manager: Manager, verb: Verb, arguments: Any, instance: Instance | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the steps as far as they can be told, and what was found to be wrong on the way."""
    if instance is None or verb.name not in ("spawn", "destroy"):
        return [{"step": verb.name, "done": False, "undoable": False}], []
    try:
        parts = _parts(manager, verb, arguments, instance)
    except errors.ComputeError as error:
        return [], [_told(error)]
    planned, problems = [], []
    for part in parts:
        try:
            planned += steps.plan([part])
        except errors.ComputeError as error:
            planned += steps.plan([dataclasses.replace(part, detail=None)])
            problems.append(_told(error))
    return planned, problems


def _parts(manager: Manager, verb: Verb, arguments: Any, instance: Instance) -> Sequence[steps.Step]:
    if verb.name == "destroy":
        return manager.driver.destroy_steps(
            request_context(),
            instance,
            instance.network_info,
            block_device_info(instance),
            arguments.destroy_disks,
        )
    return manager.driver.spawn_steps(
        request_context(),
        instance,
        instance.image,
        arguments.injected_files,
        arguments.admin_password,
        {},
        instance.network_info,
        block_device_info(instance),
    )


ANSWERS = {
    "check_parameters": check_parameters,
    "validate_parameters": validate_parameters,
    "plan": plan,
}
