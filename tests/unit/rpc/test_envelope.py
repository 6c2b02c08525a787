# SPDX-License-Identifier: Apache-2.0
"""Whatever bytes arrive become a request or a typed error, and what is told of them harms nobody."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from compute_agent.model import errors
from compute_agent.rpc import envelope
from compute_agent.rpc.envelope import MAX_DEPTH, parse, salvage

JSON = "application/json"
LIMIT = 8 * 1024 * 1024
OPERATION = "6f1fdd3c-7b0e-4f0e-9d5c-0c5b2a4f7a10"

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
FIELDS = ["method", "args", "version", "namespace", "_unique_id", "_msg_id", "_reply_q", "_timeout"]


def message(**fields: Any) -> dict[str, Any]:
    return {"method": "pause", "args": {}, "version": "1.0", "_unique_id": "a1", **fields}


def wire(inner: str | dict[str, Any], version: Any = "2.0") -> bytes:
    text = inner if isinstance(inner, str) else json.dumps(inner)
    return json.dumps({"oslo.version": version, "oslo.message": text}).encode()


def refused(body: bytes, content_type: str | None = JSON) -> errors.ComputeError:
    with pytest.raises(errors.ComputeError) as caught:
        parse(body, content_type, LIMIT)
    return caught.value


def read_or_refuse(body: bytes) -> None:
    """The promise of `parse` and `salvage` for any bytes."""
    try:
        request = parse(body, JSON, LIMIT)
    except (errors.InvalidArguments, errors.UnsupportedVersion, errors.MessageTooLarge) as error:
        error.message.encode()
    else:
        assert request.method
        # What was read can be written to the journal.
        msgspec.json.encode([request.args, request.context, request.method, request.unique_id])
    msgspec.json.encode(salvage(body))


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_read_or_refused(body: bytes) -> None:
    read_or_refuse(body)


@given(st.text(max_size=300))
@example("[" * 100_000)
@example('{"method":"a","args":{"a":' + "9" * 5000 + "}}")
@example('{"method":"a","args":{"a":NaN}}')
@example('{"method":"a","args":{"a":1e999}}')
@example('{"method":"a","args":{"a":"\\ud800"}}')
@example('{"method":"a","args":{"a":"\\ud800x"}}')
@example('{"method":"a","args":{"\\u0000":"\\u0000"}}')
@example('{"method":"a","method":1,"args":{"a":1,"a":2}}')
def test_arbitrary_texts_in_the_envelope_are_read_or_refused(text: str) -> None:
    read_or_refuse(wire(text))


@given(st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), json_values, max_size=8))
def test_arbitrary_fields_are_read_or_refused(fields: dict[str, Any]) -> None:
    read_or_refuse(wire({**message(), **fields}))


@given(json_values)
def test_arbitrary_envelopes_are_read_or_refused(value: Any) -> None:
    read_or_refuse(json.dumps(value).encode())


@given(st.data())
def test_damaged_messages_are_read_or_refused(data: st.DataObject) -> None:
    body = bytearray(wire(message(args={"operation_id": OPERATION, "n": [1, {"a": "é"}]})))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    read_or_refuse(bytes(body[: data.draw(st.integers(0, len(body)))]))


@given(st.dictionaries(st.text(), json_values.filter(lambda value: value == value), max_size=5))
def test_what_is_wrapped_is_read_back(args: dict[str, Any]) -> None:
    try:
        body = envelope.wrap(envelope.request("spawn", args, {"request_id": "r"}, _msg_id="m", _reply_q="q"))
    except UnicodeEncodeError:
        return  # a lone surrogate can't be sent
    request = parse(body, JSON, LIMIT)
    assert request.args == json.loads(msgspec.json.encode(args))
    assert (request.method, request.version, request.context) == ("spawn", "1.0", {"request_id": "r"})
    assert (request.msg_id, request.reply_q, request.is_call) == ("m", "q", True)


def test_a_call_of_oslo_messaging_is_read() -> None:
    body = wire(
        message(
            _context_request_id="req-1",
            _context_auth_token="secret",
            _context_x_trace="t\nt",
            _msg_id="m",
            _reply_q="reply_1",
            _timeout=30,
        )
    )
    request = parse(body, "application/json; charset=utf-8", LIMIT)
    assert request == envelope.Request(
        method="pause",
        args={},
        version="1.0",
        unique_id="a1",
        msg_id="m",
        reply_q="reply_1",
        timeout=30.0,
        context={"request_id": "req-1", "x_trace": "t?t"},
    )
    assert request.is_call


def test_a_cast_without_an_rpc_version_is_one_of_ours() -> None:
    body = wire({"method": "pause", "args": {}})
    request = parse(body, JSON, LIMIT)
    assert (request.version, request.unique_id, request.is_call) == ("1.0", None, False)


def test_a_message_over_the_limit_is_not_looked_at() -> None:
    with pytest.raises(errors.MessageTooLarge):
        parse(b"\xff" * 101, None, 100)


@pytest.mark.parametrize("content_type", [None, "", "text/plain", "application/x-python-serialize", "json"])
def test_only_json_is_read(content_type: str | None) -> None:
    assert refused(wire(message()), content_type).code == "InvalidArguments"


@pytest.mark.parametrize("version", ["1.1", "1.3", "2.0", "0.9", "1", "", "x", "1.x", "1.0.0.0", "9" * 5000])
def test_other_rpc_versions_are_unsupported(version: str) -> None:
    error = refused(wire(message(version=version or "0")))
    assert error.code == "UnsupportedVersion"
    assert len(error.message) < 200


@pytest.mark.parametrize("version", ["1.0", "1.0.0", None])
def test_our_rpc_version_is_supported(version: str | None) -> None:
    assert parse(wire(message(version=version)), JSON, LIMIT).method == "pause"


@pytest.mark.parametrize("version", ["1.0", "2.1", "3.0", ""])
def test_other_envelopes_are_unsupported(version: str) -> None:
    assert refused(wire(message(), version)).code == "UnsupportedVersion"


@pytest.mark.parametrize(
    "fields",
    [
        {"method": None},
        {"method": ""},
        {"method": "a\nb"},
        {"method": "a" * 256},
        {"method": ["pause"]},
        {"args": []},
        {"args": None},
        {"version": 1},
        {"namespace": "other"},
        {"_unique_id": 7},
        {"_unique_id": "a\x00"},
        {"_reply_q": "q" * 256},
        {"_timeout": "soon"},
    ],
    ids=str,
)
def test_fields_of_other_types_are_refused(fields: dict[str, Any]) -> None:
    assert refused(wire(message(**fields))).code == "InvalidArguments"


def nested(levels: int) -> Any:
    value: Any = "x"
    for number in range(levels):
        value = [value] if number % 2 else {"k": value}
    return value


def test_nesting_has_a_limit() -> None:
    fits = MAX_DEPTH - 2  # the message and its args are levels, too
    assert parse(wire(message(args={"k": nested(fits)})), JSON, LIMIT).args
    assert refused(wire(message(args={"k": nested(fits + 1)}))).code == "InvalidArguments"


def test_a_context_of_thousands_of_keys_is_cut() -> None:
    many = {f"_context_x_{number}": "v" for number in range(5000)}
    long = {"_context_x_" + "k" * 100: "v"}
    assert len(parse(wire(message(**long, **many)), JSON, LIMIT).context) == envelope.MAX_CONTEXT_KEYS


# --- salvage ---------------------------------------------------------------------------------------


def test_what_is_readable_of_a_truncated_message_is_told() -> None:
    body = wire(
        message(
            args={"operation_id": OPERATION, "admin_password": "hush"},
            version="1.3",
            _msg_id="m1",
            _reply_q="reply_1",
            _context_request_id="req-1",
        )
    )
    assert salvage(body[:-2]) == {
        "size": len(body) - 2,
        "method": "pause",
        "version": "1.3",
        "operation_id": OPERATION,
        "unique_id": "a1",
        "msg_id": "m1",
        "reply_q": "reply_1",
        "request_id": "req-1",
    }


def test_both_ends_of_a_large_message_are_searched() -> None:
    body = wire(message(args={"instance": {"x": "a" * 1_000_000}}, _msg_id="m1", _reply_q="reply_1"))
    found = salvage(body)
    assert found["truncated"] is True
    assert (found["method"], found["msg_id"], found["reply_q"]) == ("pause", "m1", "reply_1")


@pytest.mark.parametrize("value", ["../../etc", "a b", "<x>", "a" * 65, ""])
def test_values_that_look_wrong_are_not_told(value: str) -> None:
    assert "method" not in salvage(wire(message(method=value)))


@pytest.mark.parametrize(
    "body",
    [b"\\" * 50_000_000, b'"method"' * 5_000_000, b'"method":   \\\\"' * 2_000_000, b" " * 50_000_000],
    ids=["backslashes", "names", "beginnings", "blanks"],
)
def test_no_message_makes_the_search_slow(body: bytes) -> None:
    began = time.process_time()
    salvage(body)
    assert time.process_time() - began < 1.0
