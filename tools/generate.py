# SPDX-License-Identifier: Apache-2.0
"""Writes the files that are made from the code, or checks that they are up to date (``--check``).

Each kind of artifact is a function that returns texts by path, relative to the top of the tree. Nothing may
depend on the machine or the day: the same code gives the same bytes, and that is what ``make lint`` checks.
"""

from __future__ import annotations

import argparse
import difflib
import io
import json
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
if str(TOP) not in sys.path:  # the code beside this script, whatever is installed
    sys.path.insert(0, str(TOP))

Artifacts = dict[Path, str]

SAMPLE = Path("etc/compute-agent.conf.sample")
SAMPLE_NAMESPACES = ("compute_agent", "oslo.messaging", "oslo.log", "oslo.service.service")
NOT_USED = ("[oslo_messaging_kafka]", "[oslo_messaging_notifications]")
"""Groups of oslo.messaging that the agent has no use for."""
REFERENCE = Path("docs/reference.md")
SUMMARIES = Path("compute_agent/cmd/client/summaries.json")
SCHEMAS = Path("docs/schema")


def sample_configuration() -> Artifacts:
    """The sample configuration: every option of ours and of the libraries that an operator may set."""
    from oslo_config import cfg, generator

    with warnings.catch_warnings(action="ignore"):  # the libraries' own, on import
        from compute_agent.rpc.transport import set_defaults

    set_defaults()
    conf = cfg.ConfigOpts()
    generator.register_cli_opts(conf)
    arguments = [argument for name in SAMPLE_NAMESPACES for argument in ("--namespace", name)]
    conf(arguments, default_config_files=[])
    text = io.StringIO()
    with warnings.catch_warnings(action="ignore"):  # the libraries' own, on import
        generator.generate(conf, text)
    sections = re.split(r"^(?=\[)", text.getvalue(), flags=re.MULTILINE)
    kept = [section for section in sections if not section.startswith(NOT_USED)]
    if "# From compute_agent\n" not in text.getvalue():
        raise SystemExit("the package is not installed, so its options are not found: make venv")
    return {SAMPLE: "".join(kept).rstrip() + "\n"}


def schemas() -> Artifacts:
    """One JSON schema per file, for those who write to the agent or read from it without our library."""
    from compute_agent.model.schemas import schemas

    return {
        SCHEMAS / f"{name}.json": json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
        for name, schema in schemas().items()
    }


def reference() -> Artifacts:
    """The reference of the interface, and the one-line help of each verb and question."""
    with warnings.catch_warnings(action="ignore"):  # the libraries' own, on import
        from reference import reference, summaries

    return {REFERENCE: reference(), SUMMARIES: summaries()}


ARTIFACTS: tuple[Callable[[], Artifacts], ...] = (sample_configuration, schemas, reference)
# Directories that hold nothing but artifacts: what is in there and not generated is stale.
OWNED = (SCHEMAS,)


def _stale(artifacts: Artifacts) -> Iterator[Path]:
    for directory in OWNED:
        present = (path.relative_to(TOP) for path in (TOP / directory).rglob("*") if path.is_file())
        yield from sorted(set(present) - set(artifacts))


def _current(path: Path) -> str | None:
    try:
        return (TOP / path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def write(artifacts: Artifacts) -> int:
    """Write what has changed, remove what is stale; returns the exit status."""
    for path, text in artifacts.items():
        if _current(path) != text:
            print(f"generate: writing {path}")
            (TOP / path).parent.mkdir(parents=True, exist_ok=True)
            (TOP / path).write_text(text, encoding="utf-8")
    for path in _stale(artifacts):
        print(f"generate: removing {path}")
        (TOP / path).unlink()
    return 0


def check(artifacts: Artifacts) -> int:
    """Print how the files differ from what the code says; returns the exit status, 1 if they do."""
    differences: list[str] = []
    for path, text in artifacts.items():
        present, wanted = ((_current(path) or "").splitlines(True), text.splitlines(True))
        differences += difflib.unified_diff(present, wanted, str(path), f"{path} (generated)")
    differences += [f"{path} is no longer generated\n" for path in _stale(artifacts)]
    if not differences:
        return 0
    sys.stdout.writelines(differences[:200])
    print("generate: the files above are not up to date; run `make generate` and commit the result")
    return 1


def main() -> int:
    """Generate everything, or check it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file is out of date")
    arguments = parser.parse_args()
    artifacts = {path: text for make in ARTIFACTS for path, text in make().items()}
    return check(artifacts) if arguments.check else write(artifacts)


if __name__ == "__main__":
    sys.exit(main())
