# SPDX-License-Identifier: Apache-2.0
"""The terminal of the demonstration: line by line, from whichever thread, in colour where that can be seen.

Invariant: lines never mix. Whoever reads may go away (a pipe that closed, a terminal that hung up); from
then on nothing is written and nothing fails.
"""

from __future__ import annotations

import enum
import os
import sys
import threading
from typing import TextIO


class Style(enum.Enum):
    """How a part of a line looks."""

    PLAIN = ""
    BOLD = "1"
    DIM = "2"
    RED = "31"
    GREEN = "32"
    YELLOW = "33"
    CYAN = "36"
    MAGENTA = "35"


class Screen:
    """Writes lines to `stream`; colours only on a terminal that wants them."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._lock = threading.RLock()
        self._gone = False
        self._colours = (
            self._stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        )

    @property
    def gone(self) -> bool:
        """Whether nobody reads any more."""
        return self._gone

    def styled(self, text: str, style: Style) -> str:
        """`text` as it looks in `style` here."""
        if not self._colours or style is Style.PLAIN:
            return text
        return f"\033[{style.value}m{text}\033[0m"

    def line(self, *parts: str | tuple[str, Style]) -> None:
        """Write one line; a part is a text, or a text and its style."""
        text = "".join(part if isinstance(part, str) else self.styled(*part) for part in parts)
        with self._lock:
            if self._gone:
                return
            try:
                self._stream.write(text + "\n")
                self._stream.flush()
            except OSError:
                self._gone = True
                self._hush()

    def _hush(self) -> None:
        """What is still buffered would fail again when the interpreter ends."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def heading(self, text: str) -> None:
        """Write a line that begins something new."""
        with self._lock:
            self.line()
            self.line((text, Style.BOLD))

    def entry(self, time: str, source: tuple[str, Style], what: str, rest: str, style: Style) -> None:
        """Write what came at `time` from one of the sources: `what` in its style, then the rest of it."""
        self.line(
            "  ", (time, Style.DIM), "  ", (f"{source[0]:<8}", source[1]), (f"{what:<29}", style), " ", rest
        )
