# SPDX-License-Identifier: Apache-2.0
"""When filters are put in, renewed and taken out, on a libvirt that keeps filters and nothing else."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import libvirt
import msgspec
import pytest

from compute_agent import concurrency, steps
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.flavor import Flavor
from compute_agent.model.instance import Instance
from compute_agent.model.security_group import GroupMember, ProviderRule, SecurityGroup, SecurityGroupRule
from compute_agent.model.vif import Vif
from compute_agent.steps import Work
from compute_agent.virt.fake.virtapi import MemoryVirtAPI
from compute_agent.virt.libvirt.filtering import nwfilter
from compute_agent.virt.libvirt.filtering.concern import LibvirtFiltering
from tests.unit.virt.libvirt.filtering.scenarios import UUID, vif

ANOTHER = UUID.replace("6a", "7a")
ANYBODY = SecurityGroupRule()


@dataclasses.dataclass
class Kept:
    """A filter, as libvirt's object of it."""

    libvirt: Libvirt
    title: str

    def name(self) -> str:
        return self.title

    def undefine(self) -> None:
        if self.title in self.libvirt.used:
            raise refusal(libvirt.VIR_ERR_OPERATION_INVALID)
        del self.libvirt.filters[self.title]


@dataclasses.dataclass
class Binding:
    """That an interface uses a filter."""

    libvirt: Libvirt
    title: str
    device: str

    def filterName(self) -> str:
        return self.title

    def portDev(self) -> str:
        return self.device

    def delete(self) -> None:
        self.libvirt.used.pop(self.title)


class Libvirt:
    """A connection whose calls give way to other greenthreads, and the gateway to it."""

    def __init__(self) -> None:
        self.filters: dict[str, str] = {"clean-traffic": ""}
        self.used: dict[str, str] = {}
        self.defined = 0
        self.refused = "nothing"

    def ask(self, function: Callable[..., Any], *args: Any) -> Any:
        concurrency.sleep(0)
        return function(self, *args)

    act = ask

    def numOfNWFilters(self) -> int:
        return len(self.filters)

    def listAllNWFilters(self, flags: int = 0) -> list[Kept]:
        return [Kept(self, name) for name in self.filters]

    def listAllNWFilterBindings(self, flags: int = 0) -> list[Binding]:
        return [Binding(self, name, device) for name, device in self.used.items()]

    def nwfilterDefineXML(self, xml: str) -> None:
        if self.refused in xml:
            raise errors.HypervisorError("iptables failed")
        self.filters[xml.split('"')[1]] = xml
        self.defined += 1

    def of(self, uuid: str) -> list[str]:
        return [xml for name, xml in self.filters.items() if uuid in name]


class WithoutFilters(Libvirt):
    """A session's libvirt."""

    def numOfNWFilters(self) -> int:
        raise refusal(libvirt.VIR_ERR_NO_SUPPORT)

    def listAllNWFilters(self, flags: int = 0) -> list[Kept]:
        raise refusal(libvirt.VIR_ERR_NO_SUPPORT)


def refusal(code: int) -> libvirt.libvirtError:
    error = libvirt.libvirtError("refused")
    error.err = (code, 0, "refused", 0, None, None, None, 0, 0)
    return error


class Filtering(LibvirtFiltering):
    """The concern alone."""

    def __init__(self) -> None:
        self.api = MemoryVirtAPI()
        super().__init__(self.api)
        self.libvirt = Libvirt()
        self._host = self.libvirt  # type: ignore[assignment]

    def here(self, uuid: str = UUID, **fields: Any) -> Instance:
        """An instance of the group `web` that is on record and has its filters."""
        instance = described(uuid, **fields)
        self.api.put(instance)
        self.ensure_filtering_rules_for_instance(instance, instance.network_info)
        return instance


def described(uuid: str = UUID, **fields: Any) -> Instance:
    wanted: dict[str, Any] = {
        "flavor": Flavor(vcpus=1, memory_mb=32),
        "network_info": [vif("10.0.0.5")],
        "security_groups": [SecurityGroup(id="web")],
    }
    return Instance(uuid=uuid, **(wanted | fields))


@pytest.fixture
def filtering(monkeypatch: pytest.MonkeyPatch) -> Iterator[Filtering]:
    CONF([], project="compute-agent", default_config_files=[], default_config_dirs=[])
    monkeypatch.setattr(nwfilter, "_read", lambda switch: "1")
    yield Filtering()
    CONF.clear_override("filter_driver", "libvirt")


def unfiltered(*addresses: str) -> Vif:
    return msgspec.structs.replace(vif(*addresses), port_filter=False)


def test_filters_come_and_go_and_nobody_elses_are_touched(filtering: Filtering) -> None:
    one = filtering.here()
    filtering.here(ANOTHER)
    for _ in range(2):
        filtering.unfilter_instance(one, one.network_info)
    assert not filtering.libvirt.of(UUID) and len(filtering.libvirt.of(ANOTHER)) == 1
    assert "clean-traffic" in filtering.libvirt.filters


def test_where_no_interfaces_are_told_those_of_the_description_are_filtered(filtering: Filtering) -> None:
    instance = described()
    filtering.ensure_filtering_rules_for_instance(instance, None)
    assert len(filtering.libvirt.of(UUID)) == 1 and len(filtering._filters_of(instance, None)) == 1


def test_an_interface_without_port_filter_has_none(filtering: Filtering) -> None:
    filtering.here(network_info=[unfiltered()])
    assert not filtering.libvirt.of(UUID)


def test_a_filter_that_is_in_use_is_not_taken_away(filtering: Filtering) -> None:
    one = filtering.here()
    filtering.libvirt.used = dict.fromkeys(filtering.libvirt.filters, "lo")
    with pytest.raises(errors.DeviceBusy, match=UUID):
        filtering.unfilter_instance(one, one.network_info)


def test_what_used_it_may_be_gone_without_libvirts_knowing(filtering: Filtering) -> None:
    one = filtering.here()
    filtering.libvirt.used = dict.fromkeys(filtering.libvirt.filters, "no-such-tap")
    filtering.unfilter_instance(one, one.network_info)
    assert not filtering.libvirt.of(UUID) and list(filtering.libvirt.used) == ["clean-traffic"]


def test_a_groups_rules_reach_its_instances_alone(filtering: Filtering) -> None:
    filtering.here()
    filtering.here(ANOTHER, security_groups=[SecurityGroup(id="db")])
    before = filtering.libvirt.of(ANOTHER)
    filtering.api.rules["web"] = [ANYBODY]
    filtering.refresh_security_group_rules("web")
    assert '<rule action="accept" direction="in" priority="500">' in filtering.libvirt.of(UUID)[0]
    assert filtering.libvirt.of(ANOTHER) == before


def test_one_that_can_not_be_renewed_does_not_keep_the_others_from_it(filtering: Filtering) -> None:
    filtering.here()
    filtering.here(ANOTHER)
    filtering.libvirt.refused = UUID
    filtering.api.rules["web"] = [ANYBODY]
    with pytest.raises(errors.HypervisorError):
        filtering.refresh_security_group_rules("web")
    assert 'priority="500"' in filtering.libvirt.of(ANOTHER)[0]
    assert 'priority="500"' not in filtering.libvirt.of(UUID)[0]


def test_members_are_followed_where_a_rule_names_their_group(filtering: Filtering) -> None:
    filtering.here(security_groups=[SecurityGroup(id="web", rules=[SecurityGroupRule(remote_group_id="db")])])
    filtering.api.members["db"] = [GroupMember(address="10.0.0.9")]
    filtering.refresh_security_group_members("web")
    assert "10.0.0.9" not in filtering.libvirt.of(UUID)[0]
    filtering.refresh_security_group_members("db")
    assert "10.0.0.9" in filtering.libvirt.of(UUID)[0]


def test_the_providers_rules_reach_everybody_also_those_of_no_group(filtering: Filtering) -> None:
    filtering.here(security_groups=[])
    filtering.api.rules["provider"] = [ProviderRule()]
    filtering.refresh_provider_fw_rules()
    assert '<rule action="drop" direction="in" priority="100">' in filtering.libvirt.of(UUID)[0]


def test_deferred_changes_are_applied_together_at_the_end(filtering: Filtering) -> None:
    filtering.here()
    before = filtering.libvirt.defined
    for _ in range(2):
        filtering.filter_defer_apply_on()
    filtering.api.rules["web"] = [ANYBODY]
    for _ in range(3):
        filtering.refresh_security_group_rules("web")
    assert filtering.libvirt.defined == before
    for _ in range(2):
        filtering.filter_defer_apply_off()
    assert filtering.libvirt.defined == before + 1


def test_what_has_no_filters_here_gets_none_by_a_refresh(filtering: Filtering) -> None:
    filtering.api.put(described())
    filtering.refresh_security_group_rules("web")
    filtering.refresh_instance_security_rules(described())
    assert not filtering.libvirt.of(UUID)


def test_a_refresh_that_comes_while_filters_are_made_is_not_lost(filtering: Filtering) -> None:
    instance = described()
    filtering.api.put(instance)
    for _ in range(20):
        filtering.unfilter_instance(instance, instance.network_info)
        filtering.api.rules["web"] = []
        making = concurrency.spawn(
            filtering.ensure_filtering_rules_for_instance, instance, instance.network_info
        )
        concurrency.sleep(0)
        filtering.api.rules["web"] = [ANYBODY]
        filtering.refresh_security_group_rules("web")
        making.wait()
        assert 'priority="500"' in filtering.libvirt.of(UUID)[0]


def test_whoever_waits_for_another_ends_at_its_own_deadline(filtering: Filtering) -> None:
    instance = described()
    filtering._one.acquire()
    late = Work(verb="spawn", operation_id=UUID, deadline=time.monotonic())
    with steps.working(late), pytest.raises(errors.Timeout):
        filtering.ensure_filtering_rules_for_instance(instance, instance.network_info)
    filtering._one.release()
    filtering.ensure_filtering_rules_for_instance(instance, instance.network_info)


@pytest.mark.parametrize(
    ("instance", "switch", "works"),
    [
        (described(security_groups=[]), "0", True),
        (described(network_info=[unfiltered()]), "0", True),
        (described(), "0", False),
        (described(), "", False),
        (described(), "1", True),
    ],
    ids=["no rules", "no filter", "switched off", "no module", "switched on"],
)
def test_a_host_on_which_rules_would_do_nothing_is_refused(
    filtering: Filtering, monkeypatch: pytest.MonkeyPatch, instance: Instance, switch: str, works: bool
) -> None:
    monkeypatch.setattr(nwfilter, "_read", lambda name: switch)
    for act in (filtering._check_filters, filtering.ensure_filtering_rules_for_instance):
        if works:
            act(instance, instance.network_info)
            continue
        with pytest.raises(errors.UnsupportedOperation, match="bridge-nf-call-iptables"):
            act(instance, instance.network_info)
    assert bool(filtering.libvirt.of(UUID)) is (works and instance.network_info[0].port_filter)


def test_a_libvirt_without_filters_runs_guests_that_need_none(filtering: Filtering) -> None:
    filtering._host = filtering.libvirt = WithoutFilters()  # type: ignore[assignment]
    plain = described(network_info=[unfiltered()])
    filtering.ensure_filtering_rules_for_instance(plain, plain.network_info)
    filtering.unfilter_instance(plain, plain.network_info)
    with pytest.raises(errors.UnsupportedOperation, match="no network filters"):
        filtering._check_filters(described())


def test_where_others_filter_nothing_is_done_and_rules_are_refused(filtering: Filtering) -> None:
    CONF.set_override("filter_driver", "none", "libvirt")
    filtering.here()
    assert not filtering.libvirt.of(UUID) and not filtering._filters_of(described(), [vif()])
    ruled = described(security_groups=[SecurityGroup(id="web", rules=[ANYBODY])])
    for refused in (
        lambda: filtering._check_filters(ruled),
        lambda: filtering.refresh_security_group_rules("web"),
        lambda: filtering.refresh_instance_security_rules(ruled),
    ):
        with pytest.raises(errors.UnsupportedOperation, match="not applied on this host"):
            refused()
