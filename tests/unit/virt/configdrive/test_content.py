# SPDX-License-Identifier: Apache-2.0
"""What a config drive says: golden files, held against OpenStack's form of them."""

import json
import pathlib
from typing import Any

import jsonschema
import pytest

from compute_agent.model import errors
from compute_agent.model.vif import Vif
from compute_agent.virt import configdrive
from compute_agent.virt.configdrive import Given
from tests.unit.virt.configdrive.conftest import USER_DATA, UUID, b64, full, plain

GOLDEN = pathlib.Path(__file__).with_name("golden")

META_DATA = {
    "type": "object",
    "required": ["uuid", "name", "hostname", "launch_index", "meta"],
    "properties": {
        "uuid": {"type": "string"},
        "name": {"type": "string"},
        "hostname": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9.-]*$"},
        "launch_index": {"type": "integer"},
        "project_id": {"type": "string"},
        "admin_pass": {"type": "string"},
        "meta": {"type": "object", "additionalProperties": {"type": "string"}},
        "public_keys": {"type": "object", "additionalProperties": {"type": "string"}},
        "keys": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "type", "data"],
                "properties": {"type": {"const": "ssh"}},
            },
        },
        "files": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["path", "content_path"],
                "properties": {"content_path": {"pattern": "^/content/[0-9]{4}$"}},
            },
        },
        "devices": {
            "type": "array",
            "items": {"type": "object", "required": ["type", "bus", "address", "tags"]},
        },
    },
    "additionalProperties": False,
}
NETWORK_DATA = {
    "type": "object",
    "required": ["links", "networks", "services"],
    "additionalProperties": False,
    "properties": {
        "links": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["id", "type", "ethernet_mac_address", "vif_id", "mtu"],
                "properties": {"mtu": {"type": ["integer", "null"]}, "type": {"const": "phy"}},
            },
        },
        "networks": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["id", "link", "type", "network_id"],
                "properties": {"type": {"enum": ["ipv4", "ipv6", "ipv4_dhcp", "ipv6_slaac"]}},
                "if": {"properties": {"type": {"enum": ["ipv4", "ipv6"]}}},
                "then": {"required": ["ip_address", "netmask", "routes"]},
            },
        },
        "services": {"type": "array"},
    },
}


def said(given: Given, name: str, version: str = "latest") -> Any:
    return json.loads(configdrive.files(given)[f"openstack/{version}/{name}"])


def test_the_files_are_those_of_the_golden_drive() -> None:
    """What is in ``golden/`` was read by a person; ``python -m tests.unit.virt.configdrive.regenerate``."""
    kept = {str(path.relative_to(GOLDEN)): path.read_bytes() for path in GOLDEN.rglob("*") if path.is_file()}
    assert configdrive.files(full()) == kept


@pytest.mark.parametrize("given", [full(), Given(instance=plain())], ids=["full", "plain"])
@pytest.mark.parametrize(("name", "schema"), [("meta_data", META_DATA), ("network_data", NETWORK_DATA)])
@pytest.mark.parametrize("version", ["latest", "2018-08-27"])
def test_the_metadata_has_openstacks_form(given: Given, name: str, schema: Any, version: str) -> None:
    jsonschema.validate(said(given, f"{name}.json", version), schema)


def test_a_guest_without_anything_is_told_who_it_is() -> None:
    given = Given(instance=plain())
    found = said(given, "meta_data.json")
    assert (found["uuid"], found["hostname"]) == (UUID, "instance-0b6f3a52")
    assert json.loads(configdrive.files(given)["meta-data"]) == {
        "instance-id": UUID,
        "local-hostname": "instance-0b6f3a52",
    }
    assert "openstack/latest/user_data" not in configdrive.files(given)
    assert configdrive.files(given)["user-data"] == b"", "NoCloud is no seed without it"


def test_user_data_comes_through_byte_for_byte() -> None:
    zipped = b"\x1f\x8b\x08\x00\xff\xfe\x00 not UTF-8"
    files = configdrive.files(Given(instance=plain(user_data=b64(zipped))))
    assert files["openstack/latest/user_data"] == files["user-data"] == zipped
    assert configdrive.files(full())["user-data"] == USER_DATA


def test_injected_files_are_numbered_and_listed() -> None:
    files = configdrive.files(full())
    listed = said(full(), "meta_data.json")["files"]
    assert [file["path"] for file in listed] == ["/etc/motd", "/opt/ünï"]
    contents = [files[f"openstack{file['content_path']}"] for file in listed]
    assert contents == [b"hello\n", bytes(range(256))]


@pytest.mark.parametrize(
    ("fixed_ips", "types", "nocloud"),
    [
        ([], ["ipv4_dhcp"], {"dhcp4": True}),
        (["192.0.2.5"], ["ipv4_dhcp"], {"dhcp4": True}),
        (["2001:db8::5"], ["ipv6_slaac"], {"accept-ra": True}),
        (["192.0.2.5/24"], ["ipv4"], {"addresses": ["192.0.2.5/24"]}),
        (["2001:DB8::5/64"], ["ipv6"], {"addresses": ["2001:db8::5/64"]}),
        (
            ["192.0.2.5/24", "2001:db8::5"],
            ["ipv4", "ipv6_slaac"],
            {"addresses": ["192.0.2.5/24"], "accept-ra": True},
        ),
    ],
)
def test_an_address_with_a_prefix_is_set_by_the_guest_and_one_without_is_handed_out(
    fixed_ips: list[str], types: list[str], nocloud: dict[str, Any]
) -> None:
    vif = Vif(id="port-1", address="52:54:00:00:00:01", fixed_ips=fixed_ips)
    given = Given(instance=plain(), vifs=[vif])
    assert [network["type"] for network in said(given, "network_data.json")["networks"]] == types
    found = json.loads(configdrive.files(given)["network-config"])["ethernets"]["interface0"]
    assert found == {"match": {"macaddress": "52:54:00:00:00:01"}} | nocloud


def test_a_given_drive_does_not_show_its_secrets() -> None:
    assert "s3cret" not in repr(full()) + str(full())


# --- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "etc/motd",
        "",
        "/",
        "/etc/",
        "/etc/../../root/.ssh/authorized_keys",
        "/etc/./motd",
        "..",
        "/etc/mo\0td",
        "/etc/mo\ntd",
        "/etc/\x7f",
        "/etc/\ud800",
        "/" + "a" * 1024,
        "/" + "ü" * 600,
    ],
)
def test_a_path_that_no_file_of_a_guest_has_is_refused(path: str) -> None:
    given = Given(instance=plain(), injected_files=[("/ok", ""), (path, b64(b"x"))])
    with pytest.raises(errors.InvalidArguments, match="injected file 1") as caught:
        configdrive.check(given)
    assert "motd" not in str(caught.value), "a path may be somebody's secret"


@pytest.mark.parametrize("twice", ["/etc/motd", "//etc/motd", "/etc//motd"])
def test_two_files_for_one_place_are_refused(twice: str) -> None:
    given = Given(instance=plain(), injected_files=[("/etc/motd", ""), ("/b", ""), (twice, "")])
    with pytest.raises(errors.InvalidArguments, match="0 and 2"):
        configdrive.check(given)


def test_128_files_are_taken_and_one_more_is_not() -> None:
    files = [(f"/etc/{number}", b64(b"%d" % number)) for number in range(128)]
    made = configdrive.files(Given(instance=plain(), injected_files=files))
    assert made["openstack/content/0127"] == b"127"
    with pytest.raises(errors.InvalidArguments):
        configdrive.check(Given(instance=plain(), injected_files=[*files, ("/one", "")]))


def test_files_that_are_too_large_together_are_refused() -> None:
    half = b64(bytes(600_000))
    with pytest.raises(errors.MessageTooLarge):
        configdrive.check(Given(instance=plain(), injected_files=[("/a", half), ("/b", half)]))


def test_a_drive_has_a_limit() -> None:
    large = {"cloud-init": "x" * 12_000_000}
    with pytest.raises(errors.MessageTooLarge):
        configdrive.check(Given(instance=plain(vendor_data=large)))


@pytest.mark.parametrize("text", ["?", "aGk", "aGk=x", "a\0Gk", "ü", "aG-_"])
def test_what_is_no_base64_is_refused(text: str) -> None:
    for given in (
        Given(instance=plain(user_data=text)),
        Given(instance=plain(), injected_files=[("/etc/motd", text)]),
    ):
        with pytest.raises(errors.InvalidArguments):
            configdrive.check(given)


@pytest.mark.parametrize("key", ["", "  ", "ssh-rsa A\nssh-rsa B", "ssh-rsa A\0", "ssh-rsa \ud800"])
def test_an_ssh_key_is_one_line(key: str) -> None:
    with pytest.raises(errors.InvalidArguments, match="ssh key 0"):
        configdrive.check(Given(instance=plain(ssh_keys=[key])))


@pytest.mark.parametrize("address", ["999.1.1.1", "1.2.3.4/33", "::1/129", "1.2.3", "::::"])
def test_what_is_no_address_is_refused(address: str) -> None:
    vif = Vif(id="port-1", address="52:54:00:00:00:01", fixed_ips=[address])
    with pytest.raises(errors.InvalidArguments, match="port-1"):
        configdrive.check(Given(instance=plain(network_info=[vif])))


def _deep() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(100_000):
        found = {"a": found}
    return found


@pytest.mark.parametrize("vendor_data", [_deep(), {"a": float("nan")}, {"a": float("inf")}, {"a": b"bytes"}])
def test_vendor_data_that_is_no_json_is_refused(vendor_data: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidArguments, match="vendor_data"):
        configdrive.check(Given(instance=plain(vendor_data=vendor_data)))
