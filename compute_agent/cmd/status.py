# SPDX-License-Identifier: Apache-2.0
"""``compute-agent-status check``: is this host fit to run the agent, and if not, what to do?

Exit status: 0 fit, 1 fit with warnings, 2 not fit.
"""

import argparse
import dataclasses
import json
import logging
import sys
import warnings
from collections.abc import Iterable, Sequence

from compute_agent.cmd.checks import broker, configuration, finding, hypervisor, storage, system
from compute_agent.cmd.checks.finding import Check, Finding, Findings

CHECKS: tuple[tuple[str, Check], ...] = (
    (configuration.ABOUT, configuration.check),
    (storage.IDENTITY, storage.check_identity),
    (storage.STATE, storage.check_state),
    (storage.INSTANCES, storage.check_instances),
    (hypervisor.LIBVIRT, hypervisor.check_libvirt),
    (hypervisor.TOOLS, hypervisor.check_tools),
    (broker.ABOUT, broker.check),
    (system.CLOCK, system.check_clock),
    (system.UNIT, system.check_unit),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Look at the host and print what was found; return the exit status."""
    chosen = _parser().parse_args(arguments)
    logging.getLogger().addHandler(logging.NullHandler())
    with warnings.catch_warnings(action="ignore"):  # the libraries' own, on import
        found = list(check(chosen.config_file, chosen.config_dir))
    print(as_json(found) if chosen.format == "json" else as_table(found))
    return int(max(finding.level for finding in found))


def check(files: Sequence[str] = (), directories: Sequence[str] = ()) -> Findings:
    """Yield what every check finds."""
    conf, found = configuration.load(files, directories)
    yield from found
    if conf is not None:
        for about, one in CHECKS:
            yield from finding.run(about, one, conf)


def as_json(found: Iterable[Finding]) -> str:
    """Return the findings as JSON."""
    plain = [{**dataclasses.asdict(one), "level": one.level.name.lower()} for one in found]
    return json.dumps({"findings": plain}, indent=2, ensure_ascii=False)


def as_table(found: Sequence[Finding]) -> str:
    """Return the findings as lines, each with its remedy below it."""
    size = max(len(one.about) for one in found)
    lines = []
    for one in found:
        lines.append(f"{one.level.name:7}  {one.about.ljust(size)}  {one.message}")
        if one.remedy:
            lines.append(f"{'':7}  {'':{size}}  → {one.remedy}")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="compute-agent-status",
        description="Is this host fit to run the compute agent?",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    text = "Look at the configuration, the disks, libvirt, KVM, the broker, the clock and the unit."
    made = commands.add_parser(
        "check",
        help=text,
        description=text,
        epilog="Exit status: 0 fit, 1 fit with warnings, 2 not fit. Run it as the agent's user.",
        allow_abbrev=False,
    )
    made.add_argument(
        "--config-file", action="append", default=[], metavar="FILE", help="as for compute-agent"
    )
    made.add_argument("--config-dir", action="append", default=[], metavar="DIR", help="as for compute-agent")
    made.add_argument("--format", choices=("table", "json"), default="table")
    return parser


if __name__ == "__main__":
    sys.exit(main())
