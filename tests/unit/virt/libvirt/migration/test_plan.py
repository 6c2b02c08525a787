# SPDX-License-Identifier: Apache-2.0
"""How libvirt is asked to move a guest, and how its XML reads at the destination."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import libvirt
import pytest

from compute_agent.conf import CONF
from compute_agent.virt.info import LiveMigrateData
from compute_agent.virt.libvirt.migration import details, guestxml, plan
from compute_agent.virt.libvirt.migration.plan import Definitions

UUID = "6a9cc7a4-1b4e-4d3c-8f5e-0d7b2f6a1c11"
XML = f"""\
<domain><devices>
<disk type="file"><source file="/srv/one/{UUID}/disk"/><target dev="vda"/>
  <backingStore><source file="/srv/one/_base/image"/></backingStore></disk>
<disk type="file"><readonly/><source file="/srv/one/{UUID}/disk.config"/><target dev="vdb"/></disk>
<disk type="file"><source file="/mnt/volume"/><target dev="vdc"/></disk>
<interface type="bridge"><mac address="02:00:00:00:00:01"/><source bridge="br0"/></interface>
<serial type="pty"><log file="/srv/one/{UUID}/console.log"/></serial>
<graphics type="vnc" listen="10.0.0.1"><listen type="address" address="10.0.0.1"/></graphics>
</devices></domain>"""


@pytest.fixture(autouse=True)
def _options() -> Iterator[None]:
    yield
    CONF.clear_override("live_migration_permit_auto_converge", group="libvirt")
    CONF.clear_override("live_migration_trust_shared_storage", group="libvirt")
    CONF.clear_override("live_migration_parallel_connections", group="libvirt")


def _to(**fields: Any) -> details.Destination:
    usual = {"address": "10.0.0.2", "instances_path": "/srv/one", "mark": "shared_storage_mark_0"}
    return details.Destination(**(usual | fields))


def _plan(to: details.Destination | None = None, **fields: Any) -> plan.Plan:
    data = LiveMigrateData(instance_uuid=UUID, **fields)
    disk = details.MovedDisk(target="vda", name="disk", format="raw", size_bytes=1)
    said = details.Details(destination=to or _to(), source=details.Source(runs=True, disks=[disk]))
    return plan.moving(Definitions(XML, XML), "/srv/one", details.write(data, said))


def test_a_guest_arrives_held_permanent_and_stays_defined_here() -> None:
    made = _plan(is_shared_instance_path=True, held=True)
    for flag in ("LIVE", "PEER2PEER", "PAUSED", "PERSIST_DEST", "ABORT_ON_ERROR"):
        assert made.flags & getattr(libvirt, f"VIR_MIGRATE_{flag}"), flag
    for flag in ("UNDEFINE_SOURCE", "NON_SHARED_DISK", "UNSAFE", "POSTCOPY", "PARALLEL"):
        assert not made.flags & getattr(libvirt, f"VIR_MIGRATE_{flag}"), flag
    assert made.uri == "qemu+tls://10.0.0.2/system"
    assert made.parameters == {"migrate_uri": "tcp://10.0.0.2"}


def test_a_post_copy_that_broke_off_is_gone_on_with_as_it_was_begun_and_as_fast_as_it_goes() -> None:
    said = details.Details(destination=_to(), source=details.Source(runs=True))
    made = plan.mending(details.write(LiveMigrateData(instance_uuid=UUID, post_copy=True), said))
    for flag in ("LIVE", "PEER2PEER", "PERSIST_DEST", "POSTCOPY", "POSTCOPY_RESUME"):
        assert made.flags & getattr(libvirt, f"VIR_MIGRATE_{flag}"), flag
    assert made.parameters == {"migrate_uri": "tcp://10.0.0.2"}


def test_disks_of_the_sources_own_are_copied_by_name() -> None:
    made = _plan(block_migration=True)
    assert made.flags & libvirt.VIR_MIGRATE_NON_SHARED_DISK
    assert made.parameters["migrate_disks"] == ["vda"]


def test_a_copied_disk_stands_on_nothing_at_the_destination() -> None:
    """A libvirtd that was started again names what it stands on; that is not there."""
    changed = _plan(block_migration=True).parameters["destination_xml"]
    assert "_base/image" not in changed and f"/srv/one/{UUID}/disk" in changed
    assert "destination_xml" not in _plan(is_shared_instance_path=True).parameters


def test_a_post_copy_is_not_held_and_kept_from_ending_by_itself() -> None:
    made = _plan(post_copy=True, held=True, bandwidth_mib=1000)
    assert made.flags & libvirt.VIR_MIGRATE_POSTCOPY and not made.flags & libvirt.VIR_MIGRATE_PAUSED
    assert made.parameters["bandwidth"] == 1


def test_the_policy_goes_before_the_configuration() -> None:
    CONF.set_override("live_migration_permit_auto_converge", True, group="libvirt")
    assert _plan().flags & libvirt.VIR_MIGRATE_AUTO_CONVERGE
    assert not _plan(auto_converge=False).flags & libvirt.VIR_MIGRATE_AUTO_CONVERGE
    assert _plan(bandwidth_mib=7).parameters["bandwidth"] == 7


def test_shared_storage_is_trusted_only_where_the_operator_says_so() -> None:
    CONF.set_override("live_migration_trust_shared_storage", True, group="libvirt")
    assert _plan(is_shared_instance_path=True).flags & libvirt.VIR_MIGRATE_UNSAFE
    assert not _plan(block_migration=True).flags & libvirt.VIR_MIGRATE_UNSAFE


def test_an_ipv6_address_is_bracketed() -> None:
    made = _plan(_to(address="fd00::2"))
    assert made.uri == "qemu+tls://[fd00::2]/system"
    assert made.parameters["migrate_uri"] == "tcp://[fd00::2]"


def test_what_names_things_of_a_host_is_changed_for_the_other() -> None:
    to = _to(instances_path="/data", bridges={"02:00:00:00:00:01": "br-two"}, listen={"vnc": "10.0.0.2"})
    made = _plan(to)
    for name in ("destination_xml", "persistent_xml"):
        changed = made.parameters[name]
        assert f"/data/{UUID}/disk" in changed and f"/data/{UUID}/console.log" in changed
        assert 'bridge="br-two"' in changed and "10.0.0.1" not in changed
        assert "/mnt/volume" in changed and "/srv/one/" not in changed


_MAC, _FILTER = "02:00:00:00:00:01", f"compute-agent-{UUID}-tap0123456789a"


def _behind(filtered: str) -> str:
    return f'<domain><devices><interface><mac address="{_MAC}"/>{filtered}</interface></devices></domain>'


@pytest.mark.parametrize(
    ("here", "there", "arrives"),
    [
        ("", {_MAC.upper(): _FILTER}, _behind(f'<filterref filter="{_FILTER}"/>')),
        ('<filterref filter="another"/>', {_MAC: _FILTER}, _behind(f'<filterref filter="{_FILTER}"/>')),
        (f'<filterref filter="{_FILTER}"/>', {}, _behind("")),
        (f'<filterref filter="{_FILTER}"/>', {_MAC: _FILTER}, None),
        (f'<filterref filter="{_FILTER}"/>', None, None),
        ("", {}, None),
    ],
    ids=["new", "another", "none there", "the same", "not told", "none at all"],
)
def test_a_guest_is_behind_the_filters_that_it_has_at_the_destination(
    here: str, there: dict[str, str] | None, arrives: str | None
) -> None:
    assert guestxml.for_destination(_behind(here), "/srv/one", _to(filters=there)) == arrives


_SERVED = f"""\
<domain><devices><disk type="network" device="disk"><driver name="qemu" type="raw"/>
<source protocol="nbd" name="volume" index="1"><host name="10.0.0.9" port="10809"/></source>
<backingStore/><target dev="vdb" bus="virtio"/><serial>{UUID}</serial></disk></devices></domain>"""


def _place(host: str, inside: str = "") -> str:
    return (
        f'<disk type="network"><source protocol="nbd" name="volume"><host name="{host}" port="10809"/>'
        f"{inside}</source><target dev='vdz'/><boot order='1'/></disk>"
    )


def test_a_volume_is_where_the_destination_finds_it() -> None:
    changed = guestxml.for_destination(_SERVED, "/srv/one", _to(volumes={UUID: _place("10.0.0.7")}))
    assert changed is not None and "10.0.0.7" in changed and "10.0.0.9" not in changed
    assert 'dev="vdb"' in changed and "boot" not in changed and "vdz" not in changed
    assert "backingStore" not in changed


def test_a_volume_that_both_ends_find_alike_is_left_as_it_is() -> None:
    assert guestxml.for_destination(_SERVED, "/srv/one", _to(volumes={UUID: _place("10.0.0.9")})) is None
    assert guestxml.for_destination(_SERVED, "/srv/one", _to()) is None


def test_of_what_the_destination_tells_of_a_volume_only_its_place_gets_in() -> None:
    told = _place("10.0.0.7", "<slices><slice type='storage' offset='0' size='1'/></slices>")
    changed = guestxml.for_destination(_SERVED, "/srv/one", _to(volumes={UUID: told}))
    assert changed is not None and "10.0.0.7" in changed and "slice" not in changed


def test_what_has_to_be_copied_is_found_in_the_xml() -> None:
    (disk,) = guestxml.own_disks(guestxml.parsed(XML), f"/srv/one/{UUID}")
    assert (disk.target, disk.name, disk.format, disk.encrypted) == ("vda", "disk", "raw", False)
    assert disk.chain == [f"/srv/one/{UUID}/disk", "/srv/one/_base/image"]
