# SPDX-License-Identifier: Apache-2.0
"""From the text of an option to its value.

``@FILE`` and ``@-`` (standard input) stand for the contents of a file. What is secret can come from there,
from an environment variable (``env:NAME``) or from a prompt (``ask``); given plainly it would show in the
list of processes, so that is remarked upon.
"""

import argparse
import datetime
import getpass
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from compute_agent.model import clock

FILE = "@"
STANDARD_INPUT = "@-"
VARIABLE = "env:"
ASK = "ask"

Reader = Callable[[str], Any]


def contents(given: str) -> str:
    """Return what ``@FILE`` or ``@-`` stands for; any other text as it is."""
    if not given.startswith(FILE):
        return given
    try:
        if given == STANDARD_INPUT:
            return sys.stdin.read()
        with open(given[1:], encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeError) as error:
        raise argparse.ArgumentTypeError(f"{given}: {error}") from error


def structured(given: str) -> Any:
    """Return JSON, given as it is or as a file."""
    try:
        return json.loads(contents(given))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"this is no JSON: {error}") from error


def listed(item: Reader) -> Reader:
    """Return a reader of lists of single values: with commas between them, or as JSON."""

    def read(given: str) -> list[Any]:
        if given.startswith((FILE, "[")):
            found = structured(given)
            if not isinstance(found, list):
                raise argparse.ArgumentTypeError("this is no list")
            return found
        return [item(part.strip()) for part in given.split(",") if part.strip()]

    return read


def secret(name: str) -> Reader:
    """Return a reader of the secret called ``name``."""

    def read(given: str) -> str:
        if given == ASK:
            return _asked(name)
        if given.startswith(VARIABLE):
            return _variable(given.removeprefix(VARIABLE))
        if given.startswith(FILE):
            return contents(given).removesuffix("\n")
        print(f"{name} on the command line shows in the list of processes: {SECRET_HELP}", file=sys.stderr)
        return given

    return read


SECRET_HELP = f"better @FILE, {STANDARD_INPUT}, {VARIABLE}NAME or {ASK}"


def _asked(name: str) -> str:
    if not sys.stdin.isatty():
        raise argparse.ArgumentTypeError(f"{ASK} needs a terminal")
    first = getpass.getpass(f"{name}: ")
    if getpass.getpass(f"{name} once more: ") != first:
        raise argparse.ArgumentTypeError("these were not the same")
    return first


def _variable(name: str) -> str:
    if name not in os.environ:
        raise argparse.ArgumentTypeError(f"{name} is not set")
    return os.environ[name]


def moment(given: str) -> str:
    """Return a moment: RFC 3339 as it is, ``+SECONDS`` counted from now."""
    try:
        if given.startswith("+"):
            return clock.timestamp(clock.after(float(given[1:])))
        if datetime.datetime.fromisoformat(given).tzinfo is None:
            raise ValueError("the time zone is missing")
    except (ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError(f"neither RFC 3339 nor +SECONDS: {error}") from error
    return given
