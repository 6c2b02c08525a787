# SPDX-License-Identifier: Apache-2.0
"""The floor of the wire: a bare RPC server of oslo.messaging that only publishes notifications.

It runs on the executor that the agent runs on, with the same options of the broker, and does nothing for a
cast but to send the notifications of a template with the cast's operation id in them, each confirmed.
`FLOOR_TEMPLATE` names the template's file: a JSON list of payloads.
"""

# ruff: noqa: E402 (the standard library is made green before anything else is imported)

from __future__ import annotations

import warnings

warnings.simplefilter("ignore")

import eventlet

eventlet.monkey_patch()

import json
import logging
import os
import pathlib
import socket
import sys

import oslo_messaging
from oslo_config import cfg

from tests.bench.names import FLOOR_TOPIC, TEMPLATE
from tests.rig import wire


class Endpoint:
    """Answers every verb alike."""

    target = oslo_messaging.Target(version=wire.RPC_VERSION)

    def __init__(self, notifier: oslo_messaging.Notifier, template: pathlib.Path) -> None:
        self._notifier = notifier
        self._template = template
        self._payloads: list[dict[str, object]] = []

    def template(self, context: dict[str, object], operation_id: str) -> None:
        """Read the template again, and say so."""
        self._payloads = json.loads(self._template.read_text())
        self.spawn(context, operation_id)

    def spawn(self, context: dict[str, object], operation_id: str, **_arguments: object) -> None:
        """Publish what the template holds."""
        for payload in self._payloads:
            told = {**payload, "operation_id": operation_id}
            self._notifier.info(context, str(payload["type"]), told)


def _notify(text: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.sendto(text.encode(), os.environ["NOTIFY_SOCKET"])


def main() -> None:
    """Serve until killed."""
    logging.basicConfig(level=logging.WARNING)
    conf = cfg.CONF
    conf.register_opts([cfg.StrOpt("host")])
    oslo_messaging.set_transport_defaults(wire.EXCHANGE)
    conf(sys.argv[1:], project="floor")
    notifier = oslo_messaging.Notifier(
        oslo_messaging.get_notification_transport(conf),
        publisher_id=f"compute.{conf.host}",
        driver="messagingv2",
        topics=[FLOOR_TOPIC],
    )
    server = oslo_messaging.get_rpc_server(
        oslo_messaging.get_rpc_transport(conf),
        oslo_messaging.Target(topic="compute", server=conf.host),
        [Endpoint(notifier, pathlib.Path(os.environ[TEMPLATE]))],
    )
    server.start()
    _notify("READY=1")
    server.wait()


if __name__ == "__main__":
    main()
