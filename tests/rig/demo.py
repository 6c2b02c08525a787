# SPDX-License-Identifier: Apache-2.0
"""`make demo`: the product in twenty seconds.

A private broker and hypervisor, the agent, and a real QEMU guest that greets on its serial port; the
agent's events and the guest's console come to the terminal, and then what to type in a second one. It ends
on Ctrl-C, SIGTERM or SIGHUP, with `--once` by itself. Invariant: nothing of it is left, no process and no
file, however it ends.
"""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from tests.rig import scratch
from tests.rig.agent import Agent
from tests.rig.bootsector import TIMER_TICKS_PER_SECOND, Guestware
from tests.rig.broker import Broker
from tests.rig.demo_screen import Screen, Style
from tests.rig.demo_signals import Interrupted, Signals
from tests.rig.demo_watch import ConsoleWatch, EventWatch
from tests.rig.guest import Guest
from tests.rig.hypervisor import Hypervisor, bindings
from tests.rig.instance import describe
from tests.rig.process import RigError, is_alive, tail
from tests.rig.receiver import Receiver
from tests.rig.sender import Sender

P = TypeVar("P", Broker, Hypervisor, Receiver, Agent)

HOST = "demo"
NAME = "hello"
GREETING = "Hello! I am a guest, and I run."
_GUESTWARE = Guestware(GREETING, honours_button=True, tick_every=10 * TIMER_TICKS_PER_SECOND)
_PATIENCE_S = 60.0
_EVIDENCE_LINES = 12
_SECTIONS = {"DEFAULT": {"report_interval": 10, "debug": False}}


class Demo:
    """The parts of the demonstration, and what is done with them."""

    def __init__(self, screen: Screen, signals: Signals) -> None:
        self._screen = screen
        self._signals = signals
        self._closers = contextlib.ExitStack()
        self._parts: list[Broker | Hypervisor | Receiver | Agent] = []
        self._directories: list[pathlib.Path] = []
        self._pids: list[int] = []

    # --- the parts -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start everything. Raises RigError if a part does not start."""
        self._screen.heading("Starting a private broker, hypervisor and agent")
        self.broker = self._part("RabbitMQ", Broker, lambda part: part.transport_url)
        self.hypervisor = self._part("libvirt, QEMU", Hypervisor, lambda part: part.uri)
        self.receiver = self._take(lambda: Receiver(self.broker.transport_url))
        self.receiver.start()
        self._watch()
        self.agent = self._part(
            "compute-agent",
            lambda: Agent(self.broker, self.hypervisor, host=HOST, sections=_SECTIONS),
            lambda part: f"serves the queue compute.{part.host}",
        )
        self.sender = Sender(self.broker.transport_url, HOST)
        self._closers.callback(self.sender.close)

    def _part(self, name: str, make: Callable[[], P], says: Callable[[P], str]) -> P:
        began = time.monotonic()
        part = self._take(make)
        part.start()
        took = f"{time.monotonic() - began:4.1f} s  "
        self._screen.line(
            "  ", ("ready", Style.GREEN), f"  {name:<14} ", (took, Style.DIM), f"  {says(part)}"
        )
        if not isinstance(part, Receiver):
            self._directories.append(part.scratch)
            self._pids.append(part.pid)
        return part

    def _take(self, make: Callable[[], P]) -> P:
        """A part whose end is provided for, whatever interrupts."""
        with self._signals.held():
            part = make()
            self._parts.append(part)
            self._closers.callback(part.close)
        return part

    def _watch(self) -> None:
        self.consoles = ConsoleWatch(self._screen)
        self.events = EventWatch(self._screen, self.receiver, self._came)
        for watch in (self.consoles, self.events):
            self._closers.callback(watch.stop)
        self.consoles.start()

    def _came(self, event: dict[str, Any]) -> None:
        """Whoever starts a guest, its console is shown, too."""
        if event["type"] == "instance.lifecycle.started":
            uuid = event["instance_uuid"]
            with contextlib.suppress(RigError, bindings().libvirtError):
                name = self.events.names.get(uuid, uuid.partition("-")[0])
                self.consoles.follow(name, Guest(self.hypervisor, uuid).console_path)

    # --- the play --------------------------------------------------------------------------------------

    def spawn(self) -> Guest:
        """Spawn the guest and wait for its greeting. Raises RigError if one of them does not come."""
        image = self.hypervisor.images.qcow2(NAME, _GUESTWARE)
        instance = describe(image, name=NAME)
        self.events.names[instance["uuid"]] = NAME
        self._screen.heading(f"Casting `spawn` to the queue compute.{HOST}, and listening")
        self.events.start()
        self._perform("spawn", instance=instance)
        self.consoles.wait_line(GREETING, _PATIENCE_S)
        return Guest(self.hypervisor, instance["uuid"])

    def destroy(self, guest: Guest) -> None:
        """Destroy the guest. Raises RigError unless it is gone then, by the hypervisor and the disk."""
        disks = guest.disks
        self._screen.heading(f"Casting `destroy` to the queue compute.{HOST}")
        self._perform("destroy", instance_uuid=guest.uuid)
        left = [str(disk) for disk in disks if disk.exists()]
        if guest.exists or left:
            raise RigError(f"the guest was destroyed, and this is left: {guest.state}, {left}")

    def _perform(self, verb: str, **arguments: object) -> None:
        self.receiver.succeeded(self.sender.cast(verb, **arguments), _PATIENCE_S)
        self.events.wait_shown(self.receiver.mark())

    def show_commands(self, guest: Guest) -> None:
        """Show what to type in a second terminal."""
        self._screen.heading("It runs. In a second terminal, in this directory, try:")
        for command in self._commands(guest):
            self._screen.line("  ", (command, Style.BOLD))
        self._screen.line()
        self._screen.line("Events and the guest's console go on to appear here. Ctrl-C ends everything.")
        self._screen.line()

    def _commands(self, guest: Guest) -> list[str]:
        control = f"{_program()} --transport-url {self.broker.transport_url} --host {HOST}"
        return [
            f"{control} list-instances",
            f"{control} pause {guest.uuid} --wait",
            f"{control} unpause {guest.uuid} --wait",
            f"{control} power-off {guest.uuid} --wait",
            f"{control} power-on {guest.uuid} --wait",
            f"{control} get-console-output {guest.uuid}",
            f"{control} operations list",
            f"{control} destroy {guest.uuid} --wait",
            f"virsh -c '{self.hypervisor.uri}' list --all",
        ]

    def wait(self) -> None:
        """Until a signal comes. Raises RigError if a part ends by itself, or nobody looks any more."""
        while not self._screen.gone:
            time.sleep(0.2)
            for part in (self.broker, self.hypervisor, self.agent):
                if not part.running:
                    raise RigError(f"{type(part).__name__} has ended by itself")

    # --- the end ---------------------------------------------------------------------------------------

    def evidence(self) -> str:
        """What went on in the parts in the end, for whoever has to find out what went wrong."""
        return "\n".join(tail(part.evidence(), _EVIDENCE_LINES) for part in self._parts)

    def close(self) -> list[str]:
        """End everything; what is left all the same."""
        agent: Agent | None = getattr(self, "agent", None)
        if agent is not None and agent.running:
            with contextlib.suppress(RigError):
                agent.stop(5)
        self._closers.close()
        left = [f"process {pid}" for pid in self._pids if is_alive(pid)]
        return left + [str(path) for path in self._directories if path.exists() and not scratch.keep()]


def _program() -> str:
    """The client's command, as it is typed from here."""
    program = pathlib.Path(sys.executable).parent / "compute-agentctl"
    if not program.exists():
        return f"{sys.executable} -m compute_agent.cmd.ctl"
    here = pathlib.Path.cwd()
    return str(program.relative_to(here) if program.is_relative_to(here) else program)


def _play(demo: Demo, once: bool) -> None:
    demo.start()
    guest = demo.spawn()
    if once:
        demo.destroy(guest)
        return
    demo.show_commands(guest)
    demo.wait()


def _run(demo: Demo, screen: Screen, signals: Signals, once: bool) -> int:
    """The exit status: 0 if all went well; 128 and the signal's number if one cut it short."""
    try:
        try:
            _play(demo, once)
        finally:
            signals.end()
    except Interrupted as interrupted:
        screen.line()
        by_hand = interrupted.number == signal.SIGINT and not once
        return 0 if by_hand else 128 + interrupted.number
    except RigError as error:
        screen.heading("It did not go well")
        screen.line((str(error), Style.RED))
        screen.line(demo.evidence())
        return 1
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make demo", description="A guest through the whole way, on a private broker and hypervisor."
    )
    parser.add_argument(
        "--once",
        action="store_true",
        help="end when the guest has greeted and is destroyed; the exit status says whether all went well",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration; its exit status."""
    once = _parse(arguments).once
    began = time.monotonic()
    signals, screen = Signals(), Screen()
    demo = Demo(screen, signals)
    status = _run(demo, screen, signals, once)
    screen.line(("Ending: the guest, the agent, the hypervisor and the broker go.", Style.DIM))
    left = demo.close()
    if left:
        screen.line((f"This is left: {', '.join(left)}", Style.RED))
    elif status == 0 and once:
        took = time.monotonic() - began
        screen.line((f"All went well, in {took:.0f} s, and nothing is left.", Style.GREEN))
    else:
        screen.line("Nothing is left.")
    return status or bool(left)


if __name__ == "__main__":
    sys.exit(main())
