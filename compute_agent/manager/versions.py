# SPDX-License-Identifier: Apache-2.0
"""What this agent is and understands."""

from functools import cache
from importlib import metadata
from typing import Any

from compute_agent.conf import CONF
from compute_agent.manager.manager import Manager
from compute_agent.model.arguments import INJECTED_FILES_LIMIT

RPC_VERSION = "1.0"
FEATURES = (
    "idempotent-operations",
    "expires_at",
    "if_revision",
    "generation",
    "cancel-in-advance",
    "events-replay",
    "adopt",
    "plan",
    "config-drive",
)
"""Names of what a caller may rely on; only ever added to."""

LIMITS = {
    "message_bytes": 8 * 2**20,
    "injected_files_bytes": INJECTED_FILES_LIMIT,
    "reply_bytes": 2**20,
    "page": 1000,
}


@cache
def agent_version() -> str:
    """Return the version of this package."""
    try:
        return metadata.version("compute-agent")
    except metadata.PackageNotFoundError:
        return "0+unknown"


def versions(manager: Manager) -> dict[str, Any]:
    """Return versions and what is supported."""
    return {
        "version": agent_version(),
        "rpc_version": RPC_VERSION,
        "api_versions": [RPC_VERSION],
        "driver": CONF.compute_driver,
        "features": list(FEATURES),
    }
