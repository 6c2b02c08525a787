# SPDX-License-Identifier: Apache-2.0
"""``events``: what happened on a host, and what happens.

The agent is asked again and again by ``get_events``, so that nothing is taken from other receivers and
nothing has to be bound at the broker. Ephemeral events (progress, reports) are not to be had this way.
"""

import argparse
import fnmatch
import json
import time

from compute_agent.cmd.client import output
from compute_agent.cmd.client.problems import problem
from compute_agent.cmd.client.session import DONE, Record, Session
from compute_agent.cmd.client.values import listed
from compute_agent.model.event import EventType

LATEST = 20
"""How many of the latest events are shown when nothing is said."""
INTERVAL_S = 0.5
PAGE = 200


def add(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` the options of ``events``."""
    parser.add_argument("--follow", action="store_true", help="go on as events come, until Ctrl-C")
    parser.add_argument(
        "--since", type=int, metavar="SEQ", help=f"after this one (default: the last {LATEST})"
    )
    parser.add_argument("--epoch", metavar="UUID", help="the epoch that SEQ belongs to")
    parser.add_argument(
        "--type",
        action="extend",
        type=listed(str),
        metavar="TYPE,…",
        help="only these; with patterns, such as 'operation.*'",
    )
    parser.add_argument("--instance", metavar="UUID", help="only those of this instance")
    parser.add_argument(
        "--interval", type=float, default=INTERVAL_S, metavar="S", help="seconds between two looks"
    )


def run(session: Session, chosen: argparse.Namespace) -> int:
    """Show events; return the exit status."""
    reader = Reader(session, types=expanded(chosen.type), instance_uuid=chosen.instance)
    reader.begin(chosen.epoch, chosen.since, latest=0 if chosen.follow else LATEST)
    try:
        while reader.read() or chosen.follow:
            if reader.caught_up:
                time.sleep(chosen.interval)
    except KeyboardInterrupt:
        session.note("")
    return DONE


def expanded(patterns: list[str] | None) -> list[str] | None:
    """Return the types that ``patterns`` name; one that is not known stays as it is: it may be newer."""
    if not patterns:
        return None
    known = [kind.value for kind in EventType]
    found = [kind for pattern in patterns for kind in (fnmatch.filter(known, pattern) or [pattern])]
    return list(dict.fromkeys(found))


class Reader:
    """Reads a host's events in order and shows them. Survives agents that come and go.

    :param types: only these; None: all
    :param instance_uuid: only this instance's; None: all
    """

    def __init__(self, session: Session, types: list[str] | None, instance_uuid: str | None) -> None:
        self.caught_up = False
        self._session = session
        self._filter = {
            name: value for name, value in (("types", types), ("instance_uuid", instance_uuid)) if value
        }
        self._epoch: str | None = None
        self._since = 0
        self._away = False
        self._began = False

    def begin(self, epoch: str | None, since: int | None, latest: int) -> None:
        """Start after ``since`` of ``epoch``, or with the ``latest`` events that there are."""
        now = self._session.api.ask("ping")["as_of"]
        self._epoch = epoch or now["epoch"]
        self._since = max(0, now["seq"] - latest) if since is None else since

    def read(self) -> bool:
        """Show the next page; return whether there may be more right now.

        Before anything was read, what goes wrong is raised; later it is a remark, and tried again.
        """
        try:
            page = self._session.api.ask(
                "get_events", epoch=self._epoch, since=self._since, limit=PAGE, **self._filter
            )
        except Exception as error:
            if not self._began:
                raise
            self._remark(error)
            return False
        self._back()
        for event in page["events"]:
            self._show(event)
        if page["gap"] is not None:
            self._gap(page["gap"], page["as_of"])
            return True
        self.caught_up = not page["events"]
        self._since = page["next_since"]
        return not self.caught_up

    def _show(self, event: Record) -> None:
        text = json.dumps(event, ensure_ascii=False) if self._session.settings.as_json else line(event)
        self._session.line(text)

    def _gap(self, gap: Record, as_of: Record) -> None:
        """Tell that some are missing, and go on with what is there."""
        if self._session.settings.as_json:
            self._session.line(json.dumps({"type": "gap", **gap}, ensure_ascii=False))
        else:
            self._session.line(f"--- gap ({gap['reason']}): events after {self._since} are not kept any more")
        if gap["reason"] == "epoch":
            self._since = 0
        self._since = max(self._since, gap.get("oldest", 1) - 1)
        self._epoch = as_of["epoch"]
        self.caught_up = False

    def _remark(self, error: Exception) -> None:
        self.caught_up = True
        if not self._away:
            found = problem(error)
            self._session.note(f"--- {found.code}: {output.safe(found.message)}; trying again")
        self._away = True

    def _back(self) -> None:
        if self._away:
            self._session.note("--- the agent answers again")
        self._began, self._away = True, False


def line(event: Record) -> str:
    """Return an event as one line."""
    data = event.get("data") or {}
    parts = [f"{event['seq']:>6}", event["occurred_at"], event["type"]]
    parts += [f"{name}={event[field]}" for name, field in ABOUT.items() if event.get(field)]
    parts += [f"{name}={data[name]}" for name in TOLD if data.get(name) is not None]
    error = data.get("error") or {}
    if error:
        parts.append(f"error={error.get('code')}: {error.get('message')}")
    return output.safe("  ".join(str(part) for part in parts))


ABOUT = {"instance": "instance_uuid", "operation": "operation_id", "cause": "cause"}
TOLD = ("verb", "step", "state", "observed", "detail", "reason")
"""What of an event's data is shown in its line."""
