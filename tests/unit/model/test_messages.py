# SPDX-License-Identifier: Apache-2.0
"""What the types let in, what they refuse, and what never leaves."""

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compute_agent.model import arguments, decode, errors, secrets
from compute_agent.model.arguments import VERBS
from compute_agent.model.questions import QUESTIONS

UUID = "0b7c5c8e-0000-4000-8000-000000000001"
SPAWN: dict[str, Any] = {
    "instance": {
        "uuid": UUID,
        "flavor": {"vcpus": 1, "memory_mb": 64},
        "image": {"url": "file:///images/a", "headers": {"X-Auth": "s3cret"}},
    }
}

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.parametrize("kind", [*VERBS.values(), *QUESTIONS.values()], ids=lambda kind: kind.__name__)
@settings(max_examples=20, deadline=None)
@given(values=st.dictionaries(st.text(max_size=10), anything, max_size=5))
def test_whatever_comes_is_accepted_or_refused_with_a_typed_error(kind: type, values: dict[str, Any]) -> None:
    with contextlib.suppress(errors.InvalidArguments):
        decode.arguments(values, kind)


@pytest.mark.parametrize(
    "uuid",
    ["", "../x", UUID + "\n", UUID + "\x00", UUID.upper(), f"{{{UUID}}}", UUID.replace("-", ""), "<uuid/>"],
)
def test_a_uuid_is_a_uuid(uuid: str) -> None:
    with pytest.raises(errors.InvalidArguments):
        decode.arguments({"instance_uuid": uuid}, arguments.OnInstance)


@pytest.mark.parametrize(
    "name", ["a/b", "..", ".", "-rf", "a\n", "a\x00b", "<name>", "a&b", "a b", "ä", "a" * 65]
)
def test_a_name_has_no_characters_that_mean_something_elsewhere(name: str) -> None:
    with pytest.raises(errors.InvalidArguments):
        decode.arguments({"instance": SPAWN["instance"] | {"name": name}}, arguments.Spawn)


@pytest.mark.parametrize("vcpus", [0, -1, 10**9, 1.5, "1", None, True])
def test_a_flavor_is_of_this_world(vcpus: Any) -> None:
    values = {"instance": SPAWN["instance"] | {"flavor": {"vcpus": vcpus, "memory_mb": 64}}}
    with pytest.raises(errors.InvalidArguments, match="vcpus"):
        decode.arguments(values, arguments.Spawn)


def test_an_unknown_field_is_refused_by_its_name() -> None:
    with pytest.raises(errors.InvalidArguments, match="colour"):
        decode.arguments({"instance": SPAWN["instance"] | {"colour": 1}}, arguments.Spawn)


def test_fields_for_others_are_left_out_at_every_level() -> None:
    values = {
        "x_a": 1,
        "instance": SPAWN["instance"] | {"x_b": 1, "flavor": {"vcpus": 1, "memory_mb": 64, "x_c": 1}},
    }
    assert decode.arguments(values, arguments.Spawn).instance.flavor.vcpus == 1


def test_what_belongs_to_the_sender_inside_free_objects_is_kept() -> None:
    values = {"instance": SPAWN["instance"] | {"metadata": {"x_mine": "1"}}}
    assert decode.arguments(values, arguments.Spawn).instance.metadata == {"x_mine": "1"}


@pytest.mark.parametrize(
    "more",
    [
        {"image": None},
        {
            "network_info": [
                {"id": "a", "address": "52:54:00:00:00:01"},
                {"id": "a", "address": "52:54:00:00:00:02"},
            ]
        },
        {
            "network_info": [
                {"id": "a", "address": "52:54:00:00:00:01"},
                {"id": "b", "address": "52:54:00:00:00:01"},
            ]
        },
        {"flavor": {"vcpus": 1, "memory_mb": 64, "min_memory_mb": 128}},
    ],
)
def test_what_no_single_field_can_say_is_checked_too(more: dict[str, Any]) -> None:
    instance = decode.arguments({"instance": SPAWN["instance"] | more}, arguments.Spawn).instance
    with pytest.raises(errors.InvalidArguments):
        instance.check()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://h.example/a/b?X-Sig=s3cret&x=1#f", "https://h.example/a/b"),
        ("https://me:s3cret@h.example/a@b", "https://h.example/a@b"),
        ("https://h.example?s3cret/x@y", "https://h.example"),
        ("https://h.example#s3cret", "https://h.example"),
        ("file:///images/a", "file:///images/a"),
    ],
)
def test_of_an_address_only_the_place_leaves(url: str, shown: str) -> None:
    made = decode.arguments(
        {"instance": SPAWN["instance"] | {"image": {"url": url}, "kernel": url}}, arguments.Spawn
    )
    told = secrets.redacted(made)["instance"]
    assert (told["image"]["url"], told["kernel"], told["ramdisk"]) == (shown, shown, None)
    left = secrets.without(made).instance
    assert (left.image.url, left.kernel, left.ramdisk) == (shown, shown, None)


def test_secrets_do_not_leave() -> None:
    values = SPAWN | {"admin_password": "s3cret", "injected_files": [["/etc/x", "czNjcmV0"]]}
    values["instance"] = SPAWN["instance"] | {
        "user_data": "czNjcmV0",
        "block_device_mapping": [{"source_type": "volume", "connection_info": {"auth_password": "s3cret"}}],
    }
    text = str(secrets.redacted(decode.arguments(values, arguments.Spawn)))
    assert "s3cret" not in text
    assert "czNjcmV0" not in text


def test_an_error_survives_the_wire() -> None:
    error = errors.DiskFull("full", step="disk", retry_after_s=5.0, evidence="x" * 9999)
    back = errors.from_error(error.to_error())
    assert isinstance(back, errors.DiskFull)
    assert back.to_error() == error.to_error()
    assert len(back.evidence or "") == errors.EVIDENCE_LIMIT


def test_an_error_of_a_newer_agent_is_readable() -> None:
    assert isinstance(errors.from_error(errors.Error(code="Novelty", message="x")), errors.Internal)
