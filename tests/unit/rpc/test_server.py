# SPDX-License-Identifier: Apache-2.0
"""The server takes in whatever arrives, and nobody who waits keeps it from that."""

import uuid
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

from compute_agent import concurrency
from compute_agent.model import errors
from compute_agent.operations import acceptance
from compute_agent.rpc import envelope
from compute_agent.rpc import server as server_module
from compute_agent.rpc.server import Server
from tests.unit.house import House

PROPOSE = acceptance.propose


class Message:
    """A delivered message, and what became of it."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.content_type = "application/json"
        self.size = len(body)
        self.verdict: str | None = None

    def ack(self) -> None:
        self.verdict = "ack"

    def requeue(self) -> None:
        self.verdict = "requeue"


class Replies:
    """What callers were answered."""

    def __init__(self) -> None:
        self.got: dict[str, Any] = {}

    def reply(self, reply_q: str, msg_id: str, result: Any = None, error: Any = None) -> bool:
        self.got[msg_id] = error if error is not None else result
        return True


@pytest.fixture
def replies() -> Replies:
    return Replies()


@pytest.fixture
def server(house: House, replies: Replies) -> Iterator[Server]:
    with (
        mock.patch.object(server_module, "Consumer", autospec=True),
        mock.patch.object(server_module, "Replier", autospec=True, return_value=replies),
    ):
        yield Server(None, house.manager)


def asking(method: str, *, call: bool = False, **args: Any) -> Message:
    more = {"_msg_id": uuid.uuid4().hex, "_reply_q": "reply"} if call else {}
    return Message(envelope.wrap(envelope.request(method, args, **more)))


def instance(**more: Any) -> dict[str, Any]:
    return {
        "uuid": str(uuid.uuid4()),
        "flavor": {"vcpus": 1, "memory_mb": 64},
        "image": {"url": "file:///i/a"},
        **more,
    }


def test_a_message_that_cannot_be_journalled_is_rejected_and_its_neighbours_are_done(
    house: House, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept = acceptance.accept

    def choke(tx: Any, proposal: Any, *rest: Any, **more: Any) -> Any:
        if proposal.verb == "dance":
            raise TypeError("s3cret")
        return accept(tx, proposal, *rest, **more)

    monkeypatch.setattr(acceptance, "accept", choke)
    good, other = asking("spawn", instance=instance()), asking("spawn", instance=instance())
    bad = asking("dance", operation_id=str(uuid.uuid4()))
    server.on_batch([good, bad, other])
    house.settle()
    assert {message.verdict for message in (good, bad, other)} == {"ack"}
    assert len(house.events("operation.succeeded")) == 2
    (rejected,) = house.events("operation.rejected")
    assert rejected.data["error"]["code"] == "Internal"
    assert "s3cret" not in str(rejected)


def test_questions_that_wait_keep_nobody_else_waiting(house: House, server: Server, replies: Replies) -> None:
    gate = concurrency.Event()
    with mock.patch.object(house.driver, "get_host_uptime", autospec=True, side_effect=lambda: gate.wait(20)):
        stuck = [asking("get_host_uptime", call=True) for _ in range(server_module.QUESTIONS_AT_ONCE + 10)]
        took = concurrency.spawn(server.on_batch, stuck)
        concurrency.sleep(0.3)
        assert took.ended
        spawn = asking("spawn", instance=instance())
        server.on_batch([spawn, asking("ping", call=True)])
        concurrency.sleep(0.2)
        answers = [one for one in replies.got.values() if isinstance(one, dict)]
        assert [one["pong"] for one in answers] == [True]
        assert len([one for one in replies.got.values() if isinstance(one, errors.HostBusy)]) == 10
        gate.set()
        concurrency.sleep(0.2)
    assert len(replies.got) == len(stuck) + 1


def test_large_arguments_do_not_block_the_hub(house: House, server: Server) -> None:
    rules = [{"a": 1}] * 700_000
    message = asking("refresh_security_group_rules", group_id="g", rules=rules)
    assert message.size < 8 * 2**20
    hub, checked_in = concurrency._native_threading.get_ident(), []

    def propose(*arguments: Any, **more: Any) -> acceptance.Proposal:
        checked_in.append(concurrency._native_threading.get_ident())
        return PROPOSE(*arguments, **more)

    with mock.patch.object(acceptance, "propose", autospec=True, side_effect=propose):
        server.on_batch([message])
    house.settle()
    assert len(checked_in) == 1
    assert hub not in checked_in


def test_the_text_of_an_unexpected_error_does_not_leave_the_agent(
    house: House, server: Server, replies: Replies
) -> None:
    problem = RuntimeError("s3cret")
    with mock.patch.object(house.driver, "get_host_uptime", autospec=True, side_effect=problem):
        server.on_batch([asking("get_host_uptime", call=True)])
        concurrency.sleep(0.1)
    (error,) = replies.got.values()
    assert isinstance(error, errors.Internal)
    assert "s3cret" not in error.message
