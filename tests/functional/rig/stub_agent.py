# SPDX-License-Identifier: Apache-2.0
"""A stand-in for the daemon, to try the rig's `Agent`, `Sender` and `Receiver` on: it echoes.

`ping` is answered with its arguments, `fail` with an error; any cast is told as `operation.succeeded`.
Its environment may tell it to die at the start (`STUB_DIES`). It knows nothing of the agent's code.
"""

from __future__ import annotations

import argparse
import configparser
import json
import os
import signal
import socket
import sys
from typing import Any

import amqp

from tests.rig import wire

COUNT_FILE = "seq"


def notify(text: str) -> None:
    """Tell the service manager."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.sendto(text.encode(), os.environ["NOTIFY_SOCKET"])


class Stub:
    """Serves one host until SIGTERM; counts its events in its state directory."""

    def __init__(self, options: configparser.SectionProxy) -> None:
        self.host = options["host"]
        self.count_file = os.path.join(options["state_path"], COUNT_FILE)
        self.connection = wire.connect(options["transport_url"])
        self.channel = self.connection.channel()
        queue = wire.agent_queue(self.host)
        self.channel.exchange_declare(wire.EXCHANGE, "topic", durable=True, auto_delete=False)
        self.channel.queue_declare(queue, durable=True, auto_delete=False, arguments=wire.QUORUM)
        self.channel.queue_bind(queue, wire.EXCHANGE, queue)
        self.channel.basic_consume(queue, callback=self.take)

    def take(self, message: amqp.Message) -> None:
        """Answer a call, tell of a cast."""
        request = wire.opened(message.body)
        if "_reply_q" in request:
            self.reply(request)
        else:
            self.tell(request["args"]["operation_id"])
        self.channel.basic_ack(message.delivery_tag)

    def reply(self, request: dict[str, Any]) -> None:
        """The arguments come back, or the error that `fail` asks for."""
        failure = None
        if request["method"] == "fail":
            failure = json.dumps({"class": "Failure", "message": "as asked", "kwargs": request["args"]})
        answer = {
            "result": request["args"],
            "failure": failure,
            "ending": True,
            "_msg_id": request["_msg_id"],
        }
        self.publish("", request["_reply_q"], answer)

    def tell(self, operation_id: str) -> None:
        """Publish the next event."""
        seq = self.next_number()
        event = {"host": self.host, "host_id": self.host, "epoch": "1", "seq": seq, "data": {}}
        event |= {"type": "operation.succeeded", "operation_id": operation_id, "instance_uuid": None}
        notification = {"event_type": event["type"], "publisher_id": f"compute.{self.host}", "payload": event}
        for _twice in range(2):  # at least once
            self.publish(wire.EXCHANGE, wire.EVENTS_ROUTING_KEY, notification)

    def publish(self, exchange: str, routing_key: str, message: dict[str, Any]) -> None:
        """Publish in the envelope."""
        self.channel.basic_publish(amqp.Message(wire.envelope(message)), exchange, routing_key)

    def next_number(self) -> int:
        """Count on, over restarts."""
        try:
            with open(self.count_file) as file:
                number = int(file.read()) + 1
        except FileNotFoundError:
            number = 1
        with open(self.count_file, "w") as file:
            file.write(str(number))
        return number


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config-file", required=True)
    config = configparser.ConfigParser()
    config.read(parser.parse_args().config_file)
    if "STUB_DIES" in os.environ:
        sys.exit(os.environ["STUB_DIES"])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGHUP, lambda *_: notify("STATUS=reloaded"))
    stub = Stub(config["DEFAULT"])
    notify("READY=1\nSTATUS=serving")
    while True:
        stub.connection.drain_events()


if __name__ == "__main__":
    main()
