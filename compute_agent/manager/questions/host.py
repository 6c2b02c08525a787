# SPDX-License-Identifier: Apache-2.0
"""Questions about the host and the agent itself."""

import time
from typing import Any

import msgspec

from compute_agent.manager import adoption
from compute_agent.manager.manager import Manager
from compute_agent.manager.versions import LIMITS, versions
from compute_agent.model import clock, questions
from compute_agent.model.questions import QUESTIONS
from compute_agent.store import host


def ping(manager: Manager, asked: questions.Nothing) -> dict[str, Any]:
    """Whether the agent lives. Touches neither the hypervisor nor the disk but for ``as_of``."""
    return {
        "pong": True,
        "now": clock.timestamp(),
        "uptime_s": round(time.monotonic() - manager.started_at, 3),
        "hypervisor_away": manager.hypervisor_away,
        "problems": dict(manager.health),
        "operations": {"waiting": manager.engine.waiting, "running": manager.engine.running},
    }


def get_version(manager: Manager, asked: questions.Nothing) -> dict[str, Any]:
    """Versions, features by name, the verbs that the driver supports, limits."""
    supported = manager.driver.supported_verbs()
    return {
        **versions(manager),
        "verbs": sorted(name for name in manager.table if name in supported),
        "unsupported_verbs": sorted(name for name in manager.table if name not in supported),
        "questions": sorted(QUESTIONS),
        "capabilities": dict(manager.driver.capabilities),
        "limits": LIMITS,
    }


def list_orphans(manager: Manager, asked: questions.ListOrphans) -> dict[str, Any]:
    """What is at the hypervisor or on its disks, and on nobody's record."""
    return {"orphans": adoption.list_orphans(manager, asked.kind)}


def get_available_resource(manager: Manager, asked: questions.Nothing) -> dict[str, Any]:
    """What the host has, and what is left of it."""
    return dict(manager.driver.get_available_resource(manager.identity.host))


def get_inventory(manager: Manager, asked: questions.Nothing) -> dict[str, Any]:
    """Resource classes with their totals, reservations and ratios."""
    return {"inventory": manager.driver.get_inventory(manager.identity.host)}


def get_traits(manager: Manager, asked: questions.Nothing) -> dict[str, Any]:
    """What the host can do, by name."""
    return {"traits": sorted(manager.driver.get_traits(manager.identity.host))}


def get_host_uptime(manager: Manager, asked: questions.Nothing) -> dict[str, Any]:
    """How long the host has been up, as ``uptime`` says it."""
    return {"uptime": manager.driver.get_host_uptime()}


def get_host_cpu_stats(manager: Manager, asked: questions.Nothing) -> dict[str, Any]:
    """Processor times in ns since the host booted, and its frequency in MHz."""
    return dict(manager.driver.get_host_cpu_stats())


def verify(manager: Manager, asked: questions.Nothing) -> dict[str, Any]:
    """Whether the host is fit: no problems, or each with its remedy."""
    problems = manager.driver.verify() or []
    return {
        "problems": [msgspec.to_builtins(problem) for problem in problems],
        "reasons": manager.store.read(host.reasons),
    }


ANSWERS = {
    "ping": ping,
    "get_version": get_version,
    "list_orphans": list_orphans,
    "get_available_resource": get_available_resource,
    "get_inventory": get_inventory,
    "get_traits": get_traits,
    "get_host_uptime": get_host_uptime,
    "get_host_cpu_stats": get_host_cpu_stats,
    "verify": verify,
}
