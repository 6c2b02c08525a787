# SPDX-License-Identifier: Apache-2.0
"""``operations``: list, show, cancel and watch them."""

import argparse
from collections.abc import Callable, Mapping

from compute_agent.cmd.client import calls, events, following, own
from compute_agent.cmd.client.session import DONE, Session
from compute_agent.model.operation import OperationState

LIST_FIELDS = ("state", "verb", "instance_uuid", "since", "limit")
OF_OPERATIONS = ["operation.*"]


def _add_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--state", choices=[state.value for state in OperationState])
    parser.add_argument("--verb", metavar="VERB")
    parser.add_argument(
        "--instance", dest="instance_uuid", metavar="UUID", help="only those of this instance"
    )
    parser.add_argument("--since", metavar="TIME", help="accepted at or after this moment (RFC 3339)")
    parser.add_argument("--limit", type=int, metavar="N", help="how many at most (default: 100)")
    parser.add_argument("--all", action="store_true", help="all pages")


def _list(session: Session, chosen: argparse.Namespace) -> int:
    """Operations, newest first."""
    given = {field: value for field in LIST_FIELDS if (value := getattr(chosen, field)) is not None}
    calls.checked("list_operations", given)
    answer = (
        calls.all_pages(session, "list_operations", given)
        if chosen.all
        else session.api.ask("list_operations", **given)
    )
    session.show(answer)
    return DONE


def _add_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("operation_id", metavar="ID")


def _show(session: Session, chosen: argparse.Namespace) -> int:
    """An operation's record."""
    given = {"operation_id": chosen.operation_id}
    calls.checked("get_operation", given)
    session.show(session.api.ask("get_operation", **given))
    return DONE


def _add_cancel(parser: argparse.ArgumentParser) -> None:
    _add_show(parser)
    parser.add_argument("--wait", action="store_true", help="until it has been cancelled, or not")


def _cancel(session: Session, chosen: argparse.Namespace) -> int:
    """Cancel an operation; also one that has not arrived yet."""
    given = {"target": chosen.operation_id}
    calls.checked("cancel_operation", given)
    record = session.api.call("cancel_operation", **given)
    if chosen.wait:
        return following.follow(session, record["operation_id"], None)
    return following.end(session, record)


def _add_watch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("operation_id", metavar="ID", nargs="?", help="this one only, until its end")
    parser.add_argument("--wait-timeout", type=float, metavar="S", help="seconds after which to give up")


def _watch(session: Session, chosen: argparse.Namespace) -> int:
    """Follow an operation to its end, or all of them until Ctrl-C."""
    if chosen.operation_id is not None:
        calls.checked("get_operation", {"operation_id": chosen.operation_id})
        return following.follow(session, chosen.operation_id, chosen.wait_timeout)
    every = argparse.Namespace(
        follow=True, since=None, epoch=None, type=OF_OPERATIONS, instance=None, interval=events.INTERVAL_S
    )
    return events.run(session, every)


Add = Callable[[argparse.ArgumentParser], None]
Run = Callable[[Session, argparse.Namespace], int]

ACTIONS: Mapping[str, tuple[Add, Run]] = {
    "list": (_add_list, _list),
    "show": (_add_show, _show),
    "cancel": (_add_cancel, _cancel),
    "watch": (_add_watch, _watch),
}


def add(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, (add_options, act) in ACTIONS.items():
        summary = (act.__doc__ or "").strip()
        made = actions.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        add_options(made)
        own.add(made)


def run(session: Session, chosen: argparse.Namespace) -> int:
    """Do what was chosen; return the exit status."""
    _, act = ACTIONS[chosen.action]
    return act(session, chosen)
