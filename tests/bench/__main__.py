# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.bench [--quick] [--json FILE] [NAME ...]`: run benches and show a table."""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import time
from collections.abc import Callable, Sequence

from tests.bench import daemon, machine, messaging, report, spawning, transport
from tests.bench.figures import Result
from tests.bench.parts import Parts

BENCHES: dict[str, Callable[[Parts, bool], list[Result]]] = {
    "spawn": spawning.one_by_one,
    "spawn20": spawning.at_once,
    "fake": messaging.one_by_one,
    "burst": messaging.burst,
    "daemon": daemon.start_and_end,
    "transport": transport.throughput,
}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Ours and the floor in turns on one machine; ratios are the median of several rounds.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which ones: {', '.join(BENCHES)} (all)")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: a first impression")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write everything there, too")
    parser.add_argument(
        "--details", action="store_true", help="where the time goes, also where nothing is missed"
    )
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(BENCHES)
    if unknown:
        parser.error(f"no such bench: {', '.join(sorted(unknown))}; there are {', '.join(BENCHES)}")
    return options


def _run(parts: Parts, names: Sequence[str], quick: bool) -> tuple[list[Result], bool]:
    """The results, and whether all benches could be run."""
    results: list[Result] = []
    complete = True
    for name in names:
        began = time.monotonic()
        print(f"{name} …", end="", file=sys.stderr, flush=True)
        try:
            results += BENCHES[name](parts, quick)
        except Exception as error:  # of whatever kind: what the others found is worth showing
            complete = False
            print(f" failed: {type(error).__name__}: {error}", file=sys.stderr)
        else:
            print(f" {time.monotonic() - began:.0f} s", file=sys.stderr)
    return results, complete


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; exit status 0 if all benches could be run, whatever they found."""
    options = _parse(arguments)
    began = time.monotonic()
    facts = machine.facts()
    with Parts() as parts:
        results, complete = _run(parts, options.names or list(BENCHES), options.quick)
        facts |= parts.facts
    facts["duration"] = f"{time.monotonic() - began:.0f} s{', --quick' if options.quick else ''}"
    _show(results, facts, options.details)
    if options.json:
        options.json.write_text(json.dumps(report.as_data(results, facts), indent=1) + "\n")
    return 0 if complete else 1


def _show(results: Sequence[Result], facts: dict[str, str], everything: bool) -> None:
    print(report.facts(facts), report.table(results), sep="\n\n")
    for result in results:
        if everything or result.met is False:
            print(f"\n{report.details(result)}")


if __name__ == "__main__":
    sys.exit(main())
