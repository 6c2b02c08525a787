# SPDX-License-Identifier: Apache-2.0
"""The filters of the guests here: there before a guest starts or arrives, gone with its domain.

What is read (the rules on record) and what is written (libvirt's filters) belong together: a refresh may
come while a guest is being made. So both happen under one lock, and a refresh looks for filters under it:
either it finds those of the new guest, or the new guest finds the new rules.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator

from compute_agent import concurrency, steps
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.model.security_group import PROVIDER
from compute_agent.model.vif import Vif
from compute_agent.virt import filtering
from compute_agent.virt.contract.base import NetworkInfo
from compute_agent.virt.libvirt.base import LibvirtBase
from compute_agent.virt.libvirt.filtering import design, nwfilter
from compute_agent.virt.virtapi import VirtAPI

LOG = logging.getLogger(__name__)

NWFILTER = "nwfilter"
_LOOK_S = 0.2


class LibvirtFiltering(LibvirtBase):
    """The filters of the network concern."""

    def __init__(self, virtapi: VirtAPI) -> None:
        super().__init__(virtapi)
        self._one = concurrency.Semaphore(1)
        self._deferred: dict[str, Instance] | None = None

    # --- the contract --------------------------------------------------------------------------------

    def ensure_filtering_rules_for_instance(self, instance: Instance, network_info: NetworkInfo) -> None:
        """Have the filters of an instance's interfaces in place, with the rules of now."""
        with self._alone():
            self._put(instance, network_info)

    def unfilter_instance(self, instance: Instance, network_info: NetworkInfo) -> None:
        """Remove an instance's filters."""
        self._drop_filters(instance.uuid)

    def filter_defer_apply_on(self) -> None:
        """Collect changes of filters."""
        if self._deferred is None:
            self._deferred = {}

    def filter_defer_apply_off(self) -> None:
        """Apply the collected changes of filters."""
        collected, self._deferred = self._deferred or {}, None
        for instance in collected.values():
            self.refresh_instance_security_rules(instance)

    def refresh_security_group_rules(self, security_group_id: str) -> None:
        """Apply a group's rules to its instances here."""
        self._refresh_filters(lambda instance: filtering.is_member(instance, security_group_id))

    def refresh_instance_security_rules(self, instance: Instance) -> None:
        """Apply an instance's groups, if it has filters here."""
        self._check_filters(instance)
        with self._alone():
            self._renew(instance, self._host.ask(nwfilter.filtered))

    def _refresh_filters(self, concerned: Callable[[Instance], bool]) -> None:
        """Apply the rules of the instances here that are ``concerned`` anew."""
        self._check_filtering()
        with self._alone():
            there = self._host.ask(nwfilter.filtered)
            wanted = [one.instance for one in self.virtapi.instance_records() if concerned(one.instance)]
            failed = [error for instance in wanted if (error := self._try_to_renew(instance, there))]
        if failed:
            raise failed[0]

    # --- shared with other concerns ------------------------------------------------------------------

    def _check_filters(self, instance: Instance, network_info: NetworkInfo = None) -> None:
        """Say whether this host can filter as an instance asks for.

        :param network_info: its interfaces; None for those of its description
        :raises UnsupportedOperation: if it can't
        """
        rules = filtering.rules_of(instance, self.virtapi)
        if self._filtered(instance, network_info):
            self._host.ask(nwfilter.check, bool(rules or instance.security_groups))
        if any(rule.group != PROVIDER for rule in rules):
            self._check_filtering()

    def _check_host_filters(self) -> None:
        """Say whether this host can filter all that may be asked of it; raises as :meth:`_check_filters`."""
        if CONF.libvirt.filter_driver == NWFILTER:
            self._host.ask(nwfilter.check, True)

    def _check_filtering(self) -> None:
        if CONF.libvirt.filter_driver != NWFILTER:
            raise errors.UnsupportedOperation(
                "rules of security groups are not applied on this host",
                hint="[libvirt] filter_driver says who filters",
            )

    def _filters_of(self, instance: Instance, network_info: NetworkInfo) -> dict[str, str]:
        """Return the names of the filters that an instance has on this host, by the VIFs' addresses."""
        filtered = self._filtered(instance, network_info)
        return {vif.address.lower(): design.name_of(instance.uuid, vif) for vif in filtered}

    def _drop_filters(self, uuid: str) -> None:
        with self._alone():
            self._host.act(nwfilter.remove, uuid)

    # --- how -----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One at a time. Whoever waits is not kept beyond its own deadline by one that waits for libvirt.

        :raises Cancelled, Timeout: if the running operation is cancelled or over its time
        """
        while not self._one.acquire(timeout=_LOOK_S):
            steps.current().check()
        try:
            yield
        finally:
            self._one.release()

    def _try_to_renew(self, instance: Instance, there: set[str]) -> errors.ComputeError | None:
        """Return what went wrong: the others are renewed all the same."""
        try:
            self._renew(instance, there)
        except errors.ComputeError as error:
            LOG.warning("the filters of instance %s were not renewed: %s", instance.uuid, error.message)
            return error
        return None

    def _renew(self, instance: Instance, there: set[str]) -> None:
        if instance.uuid not in there:
            return  # it gets the rules of then when it starts or arrives
        if self._deferred is not None:
            self._deferred[instance.uuid] = instance
        else:
            self._put(instance, instance.network_info)

    def _filtered(self, instance: Instance, network_info: NetworkInfo) -> list[Vif]:
        """Return the interfaces that are to be filtered here; of the description's, where none are told."""
        if CONF.libvirt.filter_driver != NWFILTER:
            return []
        vifs = instance.network_info if network_info is None else network_info
        return [vif for vif in vifs if vif.port_filter]

    def _put(self, instance: Instance, network_info: NetworkInfo) -> None:
        vifs = self._filtered(instance, network_info)
        if not vifs:
            return
        rules = filtering.rules_of(instance, self.virtapi)
        grouped = bool(instance.security_groups)
        wanted = [design.design(instance.uuid, vif, rules, grouped=grouped) for vif in vifs]
        self._host.act(nwfilter.define, wanted, bool(rules or grouped))
