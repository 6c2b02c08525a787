# SPDX-License-Identifier: Apache-2.0
"""A compute agent that stands on its own: one per hypervisor host, told what to do over RabbitMQ.

Importing the package imports nothing else, so that the commands can choose the concurrency backend first.
"""

from __future__ import annotations


def __getattr__(name: str) -> str:
    """Look up ``__version__``, the installed distribution's, only when asked: it takes time to read."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import metadata

    try:
        return metadata.version("compute-agent")
    except metadata.PackageNotFoundError:  # a source tree that was never installed
        return "0.1.0.dev0"
