# SPDX-License-Identifier: Apache-2.0
"""Network: interfaces on the fake host and in its guests, and the filters between them."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from compute_agent import steps
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.image import Image
from compute_agent.model.instance import Instance
from compute_agent.model.vif import Vif
from compute_agent.virt import filtering
from compute_agent.virt.contract.base import Context, NetworkInfo
from compute_agent.virt.fake import counters, design
from compute_agent.virt.fake.base import FakeBase, Part
from compute_agent.virt.fake.world import Nic


class FakeNetwork(FakeBase):
    """The network concern."""

    _deferred: dict[str, Instance] | None = None

    def plug_vifs(self, instance: Instance, network_info: NetworkInfo) -> None:
        """Plug interfaces in on the host."""
        check(network_info or ())
        plug(self, instance, network_info or ())

    def unplug_vifs(self, instance: Instance, network_info: NetworkInfo) -> None:
        """Unplug interfaces on the host."""
        gone = {vif.id for vif in network_info or ()}
        plugged = self.hypervisor.world.plugged.get(instance.uuid, {})
        left = {vif: tap for vif, tap in plugged.items() if vif not in gone}
        if left != plugged:
            self.hypervisor.effect("unplug", instance.uuid, plugged=left or None)

    def attach_interface(
        self, context: Context, instance: Instance, image_meta: Image | None, vif: Vif
    ) -> None:
        """Give a guest an interface."""
        domain, uuid = self.hypervisor.get(instance.uuid), instance.uuid
        fresh = design.nic(vif)
        there = domain.nics.get(vif.id) == fresh
        if not there and any(nic.mac == fresh.mac or nic.id == fresh.id for nic in domain.nics.values()):
            raise errors.DeviceBusy(
                f"the guest has an interface with the address {fresh.mac}", retryable=False
            )
        known = any(one.id == vif.id for one in instance.network_info)
        ours = not known and (not there or steps.current().resumed)
        check([vif])
        self._run(
            "attach_interface",
            instance,
            Part(
                "plug",
                lambda: plug(self, instance, [vif]),
                undo=(lambda: self._unplug(instance, vif)) if ours else None,
            ),
            Part(
                "device",
                lambda: self._set_nics("attach_interface", uuid, {**domain.nics, vif.id: fresh}),
                done=lambda: vif.id in self.hypervisor.get(uuid).nics,
                undo=(lambda: self._take_nic(uuid, vif)) if ours else None,
            ),
        )

    def detach_interface(self, context: Context, instance: Instance, vif: Vif) -> None:
        """Take an interface from a guest."""
        self.hypervisor.get(instance.uuid)
        self._run(
            "detach_interface",
            instance,
            Part("device", lambda: self._release_nic(instance.uuid, vif)),
            Part("unplug", lambda: self._unplug(instance, vif)),
        )

    def _release_nic(self, uuid: str, vif: Vif) -> None:
        domain = self.hypervisor.get(uuid)
        if vif.id in domain.nics and domain.is_up and vif.id in self.hypervisor.held:
            raise errors.DeviceBusy(f"the guest does not release {vif.id}")
        self._take_nic(uuid, vif)

    def _take_nic(self, uuid: str, vif: Vif) -> None:
        nics = self.hypervisor.get(uuid).nics
        if vif.id in nics:
            left = {key: nic for key, nic in nics.items() if key != vif.id}
            self._set_nics("detach_interface", uuid, left)

    def _set_nics(self, effect: str, uuid: str, nics: dict[str, Nic]) -> None:
        self.hypervisor.effect(effect, uuid, domain={"nics": nics})

    def _unplug(self, instance: Instance, vif: Vif) -> None:
        plugged = self.hypervisor.world.plugged.get(instance.uuid, {})
        if vif.id in plugged:
            left = {key: tap for key, tap in plugged.items() if key != vif.id}
            self.hypervisor.effect("unplug", instance.uuid, plugged=left or None)

    def get_all_bw_counters(self, instances: Sequence[Instance]) -> list[dict[str, Any]]:
        """Return what each interface moved, in bytes."""
        found = []
        for instance in instances:
            domain = self.hypervisor.find(instance.uuid)
            for nic in domain.nics.values() if domain else ():
                moved = counters.interface(self.hypervisor, domain, nic) if domain else counters.NOTHING_MOVED
                found.append(
                    {
                        "name": instance.name,
                        "uuid": instance.uuid,
                        "vif_id": nic.id,
                        "mac_address": nic.mac,
                        "bw_in": moved[0],
                        "bw_out": moved[4],
                    }
                )
        return found

    # --- filters -----------------------------------------------------------------------------------------

    def ensure_filtering_rules_for_instance(self, instance: Instance, network_info: NetworkInfo) -> None:
        """Define an instance's filters."""
        set_filters(self, instance)

    def unfilter_instance(self, instance: Instance, network_info: NetworkInfo) -> None:
        """Remove an instance's filters."""
        if instance.uuid in self.hypervisor.world.filters:
            self.hypervisor.effect("unfilter", instance.uuid, filters=None)

    def filter_defer_apply_on(self) -> None:
        """Collect changes of filters."""
        if self._deferred is None:
            self._deferred = {}

    def filter_defer_apply_off(self) -> None:
        """Apply the collected changes of filters."""
        collected, self._deferred = self._deferred or {}, None
        for instance in collected.values():
            set_filters(self, instance)

    def refresh_security_group_rules(self, security_group_id: str) -> None:
        """Apply a group's rules to its instances here, and to those whose rules refer to it."""
        self._refresh_filters(lambda instance: filtering.is_member(instance, security_group_id))

    def refresh_instance_security_rules(self, instance: Instance) -> None:
        """Apply an instance's groups."""
        if self._deferred is not None:
            self._deferred[instance.uuid] = instance
        else:
            set_filters(self, instance)


def check(vifs: Iterable[Vif]) -> None:
    """Check that the host has the networks of interfaces.

    :raises NetworkUnavailable: naming the bridge that is missing
    """
    for vif in vifs:
        if CONF.fake.bridges and vif.bridge is not None and vif.bridge not in CONF.fake.bridges:
            raise errors.NetworkUnavailable(f"there is no bridge {vif.bridge} on this host")


def plug(driver: FakeBase, instance: Instance, vifs: Iterable[Vif]) -> None:
    """Plug interfaces in on the host, behind their filters. What is plugged already stays."""
    before = driver.hypervisor.world.plugged.get(instance.uuid, {})
    after = before | {vif.id: design.tap(vif) for vif in vifs}
    if after != before:
        driver.hypervisor.effect("plug", instance.uuid, plugged=after)
    if any(vif.port_filter for vif in vifs):
        set_filters(driver, instance)


def unplug(driver: FakeBase, instance: Instance) -> None:
    """Unplug all of an instance's interfaces and remove its filters."""
    world = driver.hypervisor.world
    parts = {name: None for name in ("plugged", "filters") if instance.uuid in getattr(world, name)}
    if parts:
        driver.hypervisor.effect("unplug", instance.uuid, **parts)


def set_filters(driver: FakeBase, instance: Instance) -> None:
    """Bring an instance's filters to what its groups and the provider say."""
    rules = _rules(driver, instance)
    if driver.hypervisor.world.filters.get(instance.uuid) != rules:
        driver.hypervisor.effect("filter", instance.uuid, filters=rules)


def _rules(driver: FakeBase, instance: Instance) -> list[dict[str, Any]]:
    """Return the rules in their order: the provider's first, since they win."""
    return [
        {"group": applied.group, "rule": msgspec.to_builtins(applied.rule), "remotes": applied.remotes}
        for applied in filtering.rules_of(instance, driver.virtapi)
    ]
