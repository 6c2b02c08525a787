# SPDX-License-Identifier: Apache-2.0
"""A volume is found by its serial number, in what runs and in the definition."""

from __future__ import annotations

from lxml import etree

from compute_agent.virt.libvirt.volumes import found


def disk(target: str, serial: str | None = None) -> etree._Element:
    number = f"<serial>{serial}</serial>" if serial else ""
    return etree.fromstring(
        f"<disk type='file' device='disk'><source file='/v/{target}'/>"
        f"<target dev='{target}' bus='virtio'/>{number}<alias name='virtio-{target}'/></disk>"
    )


def test_a_volume_is_found_where_it_is() -> None:
    live = {"vda": disk("vda"), "vdb": disk("vdb", "one"), "vdc": disk("vdc", "two")}
    kept = {"vda": disk("vda"), "vdb": disk("vdb", "one")}
    one, two, three = (found.in_disks(live, kept, name) for name in ("one", "two", "three"))
    assert (one.live and one.live.target, one.kept and one.kept.target, one.whole) == ("vdb", "vdb", True)
    assert (two.live and two.live.target, two.kept, two.whole) == ("vdc", None, False)
    assert (three.half, three.whole) == (None, False)
    assert one.taken == {"vda", "vdb", "vdc"}


def test_after_a_swap_the_definition_says_which_volume_it_is() -> None:
    live, kept = {"vdb": disk("vdb", "old")}, {"vdb": disk("vdb", "new")}
    assert found.in_disks(live, kept, "new").whole
    assert found.in_disks(live, kept, "old").half is None


def test_a_guest_that_is_off_needs_its_definition_only() -> None:
    kept = {"vdb": disk("vdb", "one")}
    assert found.in_disks({}, kept, "one", active=False).whole
    assert not found.in_disks({}, kept, "one", active=True).whole
