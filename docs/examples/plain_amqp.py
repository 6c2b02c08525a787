#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Spawn a guest, look at it, destroy it, and print every event about it, in plain AMQP.

    python3 plain_amqp.py amqp://user:password@broker:5672/ HOST IMAGE

HOST is the agent's `[DEFAULT] host`, IMAGE the url of a qcow2 or raw file as the agent sees it. Needs nothing
but Python and the package `amqp`: neither compute-agent nor oslo.messaging. Exit status 0 if all went well.
"""

import json
import sys
import time
import urllib.parse
import uuid

import amqp

EXCHANGE = "compute_agent"
EVENTS = "compute_events.info"
ENDS = ("operation.succeeded", "operation.failed", "operation.cancelled", "operation.rejected")
PATIENCE_S = 120


class Scheduler:
    """One connection: casts and calls to the agent of one host, and everybody's events."""

    def __init__(self, url, host):
        parts = urllib.parse.urlsplit(url)
        self.queue = f"compute.{host}"
        self.connection = amqp.Connection(
            f"{parts.hostname}:{parts.port or 5672}",
            urllib.parse.unquote(parts.username or "guest"),
            urllib.parse.unquote(parts.password or "guest"),
            virtual_host=urllib.parse.unquote(parts.path[1:]) or "/",
            confirm_publish=True,  # basic_publish returns when the broker has the message
            connect_timeout=10,
        )
        self.connection.connect()
        self.channel = self.connection.channel()
        self.events, self.replies, self.returned, self.seen = [], {}, [], set()
        self.channel.events["basic_return"].add(lambda reason, *_rest: self.returned.append(reason))
        # A queue of one's own; with a lasting name, durable and acknowledged, it would outlive this program.
        events = self.channel.queue_declare("", exclusive=True).queue
        self.channel.queue_bind(events, EXCHANGE, EVENTS)
        self.channel.basic_consume(events, no_ack=True, callback=self._event)
        self.reply_q = self.channel.queue_declare("", exclusive=True).queue
        self.channel.basic_consume(self.reply_q, no_ack=True, callback=self._reply)

    def cast(self, verb, **arguments):
        """Send a verb; the operation's id. The same id sent again is the same operation."""
        operation_id = str(uuid.uuid4())
        self._publish(verb, arguments | {"operation_id": operation_id})
        return operation_id

    def call(self, question, **arguments):
        """Ask a question; the answer."""
        msg_id = uuid.uuid4().hex
        self._publish(question, arguments, _msg_id=msg_id, _reply_q=self.reply_q, _timeout=None)
        reply = self._wait_for(lambda: self.replies.pop(msg_id, None), f"the answer to {question}")
        if reply["failure"]:
            error = json.loads(reply["failure"])["kwargs"]
            raise RuntimeError(f"{question}: {error['code']}: {error['message']}")
        return reply["result"]

    def end_of(self, operation_id):
        """Wait for the end of an operation; its record. Raises RuntimeError unless it succeeded."""

        def ended():
            return [e for e in self.events if e["operation_id"] == operation_id and e["type"] in ENDS]

        event = self._wait_for(ended, f"the end of operation {operation_id}")[0]
        if event["type"] != "operation.succeeded":
            error = event["data"]["error"]
            raise RuntimeError(f"{event['type']}: {error['code']}: {error['message']} ({error['hint']})")
        return event["data"]

    def _publish(self, method, arguments, **more):
        message = {"method": method, "args": arguments, "version": "1.0", "_unique_id": uuid.uuid4().hex}
        message |= {"_context_request_id": f"req-{uuid.uuid4()}"} | more
        body = json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(message)})
        properties = {"content_type": "application/json", "content_encoding": "utf-8", "delivery_mode": 2}
        self.channel.basic_publish(amqp.Message(body, **properties), EXCHANGE, self.queue, mandatory=True)
        if self.returned:
            raise RuntimeError(f"no agent has ever served this host: there is no queue {self.queue}")

    def _event(self, delivery):
        event = json.loads(json.loads(delivery.body)["oslo.message"])["payload"]
        identity = (event["host_id"], event["epoch"], event["seq"])
        if event["seq"] is None or identity in self.seen:
            return  # a report, or progress; or one that came before: events come at least once, in order
        self.seen.add(identity)
        self.events.append(event)

    def _reply(self, delivery):
        reply = json.loads(json.loads(delivery.body)["oslo.message"])
        self.replies[reply["_msg_id"]] = reply

    def _wait_for(self, found, what):
        deadline = time.monotonic() + PATIENCE_S
        while not (result := found()):
            left = deadline - time.monotonic()
            if left <= 0:
                raise RuntimeError(f"{what} did not come within {PATIENCE_S} s")
            try:
                self.connection.drain_events(timeout=left)
            except TimeoutError:
                continue
        return result


def main(url, host, image):
    guest = str(uuid.uuid4())
    instance = {
        "uuid": guest,
        "flavor": {"vcpus": 1, "memory_mb": 64},
        "image": {"url": image, "disk_format": "qcow2" if image.endswith(".qcow2") else "raw"},
    }
    scheduler = Scheduler(url, host)
    try:
        scheduler.end_of(scheduler.cast("spawn", instance=instance))
        record = scheduler.call("get_instance", instance_uuid=guest)
        print(f"guest {guest} is {record['state']}, revision {record['revision']}")
        scheduler.end_of(scheduler.cast("destroy", instance_uuid=guest))
    finally:
        for event in scheduler.events:
            if event["instance_uuid"] == guest:
                print(
                    event["seq"], event["occurred_at"], event["type"], event["operation_id"], event["cause"]
                )
        scheduler.connection.close()


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except (RuntimeError, OSError, amqp.AMQPError) as failure:
        sys.exit(f"plain_amqp: {failure}")
