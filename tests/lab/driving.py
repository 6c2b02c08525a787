# SPDX-License-Identifier: Apache-2.0
"""Call one member of the libvirt driver on a host of the lab, in a process of its own.

`python tests/lab/driving.py CONFIG_FILE REQUEST_FILE` does what the request says, with the configuration of
the host's agent, and prints the answer. The agent itself does not run meanwhile: what is tried is the driver
alone, also when it is killed in the middle.
"""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

ANSWER = "answer: "


def main(config_file: str, request_file: str) -> None:
    from compute_agent import concurrency

    concurrency.patch()
    from compute_agent.conf import CONF

    CONF(["--config-file", config_file], project="compute-agent")
    request = json.loads(pathlib.Path(request_file).read_text())
    print(ANSWER + json.dumps(answer(request)), flush=True)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Do what is asked; its result, or the error's type and text."""
    import msgspec

    from compute_agent.model import errors

    try:
        return {"result": msgspec.to_builtins(Asked(request).do())}
    except errors.ComputeError as error:
        return {"error": type(error).__name__, "message": error.message, "evidence": error.evidence}


class _Api:
    """The agent, as far as the driver may ask it.

    rules: of security groups, by their ids.
    """

    def __init__(self, rules: dict[str, Any]) -> None:
        self.rules = rules

    def is_bootable(self, uuid: str) -> bool:
        return True

    def set_bootable(self, uuid: str, is_bootable: bool) -> None:
        raise NotImplementedError

    def security_group_rules(self, group_id: str) -> list[Any]:
        import msgspec

        from compute_agent.model.security_group import SecurityGroupRule

        return msgspec.convert(self.rules.get(group_id, []), list[SecurityGroupRule])

    def security_group_members(self, group_id: str) -> list[Any]:
        return []


class Asked:
    """One request: the member, the instance, what the other end told."""

    def __init__(self, request: dict[str, Any]) -> None:
        import msgspec

        from compute_agent.model.instance import Instance
        from compute_agent.virt.info import LiveMigrateData
        from compute_agent.virt.libvirt.driver import LibvirtDriver

        self.request = request
        self.heard: list[Any] = []
        self.driver = LibvirtDriver(_Api(request.get("rules", {})))  # type: ignore[arg-type]
        self.driver.register_event_listener(self.heard.append)
        self.driver.init_host(request["host"])
        self.instance = msgspec.convert(request["instance"], Instance)
        given = request.get("data")
        self.data = msgspec.convert(given, LiveMigrateData) if given else None

    def do(self) -> Any:
        """Call it."""
        found = getattr(self, self.request["member"])()
        self.driver.cleanup_host(self.request["host"])
        return found

    def resources(self) -> Any:
        return self.driver.get_available_resource(self.request["host"])

    def check_destination(self) -> Any:
        there, here = self.request["resources"], self.resources()
        block = self.request.get("block_migration")
        return self.driver.check_can_live_migrate_destination(None, self.instance, there, here, block)

    def cleanup_destination_check(self) -> Any:
        assert self.data is not None
        self.driver.cleanup_live_migration_destination_check(None, self.data)

    def check_source(self) -> Any:
        assert self.data is not None
        self.data.held = True
        return self.driver.check_can_live_migrate_source(None, self.instance, self.data)

    def prepare(self) -> Any:
        vifs = self.instance.network_info
        return self.driver.pre_live_migration(None, self.instance, None, vifs, None, self.data)

    def move(self) -> Any:
        called: list[str] = []
        self.driver.live_migration(
            None,
            self.instance,
            self.request["dest"],
            lambda *_: called.append("post"),
            lambda *_: called.append("recover"),
            False,
            self.data,
        )
        return {"called": called, "status": self.driver.get_migration_status(self.instance)}

    def take(self) -> Any:
        vifs = self.instance.network_info
        self.driver.post_live_migration_at_destination(None, self.instance, vifs)
        return [
            event.transition for event in self.heard if getattr(event, "uuid", None) == self.instance.uuid
        ]

    def finish(self) -> Any:
        self.driver.post_live_migration(None, self.instance, None, self.data)
        self.driver.post_live_migration_at_source(None, self.instance, self.instance.network_info)

    def roll_back(self) -> Any:
        vifs = self.instance.network_info
        self.driver.rollback_live_migration_at_destination(None, self.instance, vifs, None, True, self.data)

    def abort(self) -> Any:
        self.driver.live_migration_abort(self.instance)

    def force(self) -> Any:
        self.driver.live_migration_force_complete(self.instance)

    def fact(self) -> Any:
        return str(self.driver.see_migration(self.instance, not self.request["incoming"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
