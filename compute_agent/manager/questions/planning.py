# SPDX-License-Identifier: Apache-2.0
"""Questions before the act: are these arguments right, would this verb work, what would it do."""

from typing import Any

import msgspec

from compute_agent import steps
from compute_agent.manager.manager import Manager, block_device_info, request_context
from compute_agent.model import decode, errors, questions
from compute_agent.model.arguments import Arguments
from compute_agent.model.instance import Instance
from compute_agent.model.operation import Operation, OperationState
from compute_agent.operations import turns
from compute_agent.operations.verbs import Verb
from compute_agent.store.database import Transaction


def check_parameters(manager: Manager, asked: questions.CheckInstance) -> dict[str, Any]:
    """What is wrong with an instance's description, wherever it is to run."""
    instance = asked.instance.named()
    return {"problems": _reasons(instance.check) + _reasons(manager.driver.check_parameters, instance)}


def validate_parameters(manager: Manager, asked: questions.CheckInstance) -> dict[str, Any]:
    """Why an instance could not run on this host."""
    instance = asked.instance.named()
    problems = _reasons(instance.check) + _reasons(manager.driver.check_parameters, instance)
    return {"problems": problems + _reasons(manager.driver.validate_parameters, instance)}


def _reasons(check: Any, *arguments: Any) -> list[dict[str, Any]]:
    """Run a check that raises or returns problems; give both the same form."""
    try:
        found = check(*arguments)
    except errors.ComputeError as error:
        return [msgspec.to_builtins(error.to_error())]
    return [msgspec.to_builtins(problem) for problem in found or ()]


def plan(manager: Manager, asked: questions.Plan) -> dict[str, Any]:
    """What a verb would do, step by step, and every reason why it would fail. Does nothing of it."""
    verb = manager.table.get(asked.verb)
    if verb is None:
        raise errors.UnknownVerb(f"unknown verb: {asked.verb}")
    arguments = decode.arguments(asked.arguments, verb.arguments)
    problems, instance = _admission(manager, verb, arguments)
    if not manager.supports(verb.name):
        problems.append(
            msgspec.to_builtins(errors.UnsupportedOperation(f"the driver does not do {verb.name}").to_error())
        )
    planned: list[dict[str, Any]] = []
    if instance is not None and verb.makes:
        problems += _reasons(manager.driver.check_parameters, instance)
        problems += _reasons(manager.driver.validate_parameters, instance)
    if instance is not None and not problems:
        try:
            planned = _steps(manager, verb, arguments, instance)
        except errors.ComputeError as error:
            problems.append(msgspec.to_builtins(error.to_error()))
    return {
        "verb": verb.name,
        "steps": planned,
        "problems": problems,
        "lifecycle": list(verb.lifecycle),
        "bytes_to_fetch": sum(step.get("bytes", 0) for step in planned if not step["done"]),
    }


def _admission(
    manager: Manager, verb: Verb, arguments: Arguments
) -> tuple[list[dict[str, Any]], Instance | None]:
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
        try:
            if made is not None:
                made.check()
            record = turns.admit(tx, verb, operation, arguments)
        except errors.ComputeError as error:
            return [msgspec.to_builtins(error.to_error())], made.named() if made else None
        return [], record.instance if record else None

    return manager.store.read(read)


def _steps(manager: Manager, verb: Verb, arguments: Any, instance: Instance) -> list[dict[str, Any]]:
    if verb.name == "spawn":
        parts = manager.driver.spawn_steps(
            request_context(),
            instance,
            instance.image,
            arguments.injected_files,
            arguments.admin_password,
            {},
            instance.network_info,
            block_device_info(instance),
        )
    elif verb.name == "destroy":
        parts = manager.driver.destroy_steps(
            request_context(),
            instance,
            instance.network_info,
            block_device_info(instance),
            arguments.destroy_disks,
        )
    else:
        return [{"step": verb.name, "done": False, "undoable": False}]
    return steps.plan(parts)


ANSWERS = {
    "check_parameters": check_parameters,
    "validate_parameters": validate_parameters,
    "plan": plan,
}
