# SPDX-License-Identifier: Apache-2.0
"""What the agent does by itself now and then: it keeps the image cache small.

Such a round is an operation like others, in the journal and in the events, of origin ``agent``.
"""

import logging
import time
import uuid

from compute_agent import concurrency
from compute_agent.conf import CONF
from compute_agent.manager.manager import Manager
from compute_agent.manager.timekeeping import Timekeeper
from compute_agent.model import errors
from compute_agent.model.operation import Origin
from compute_agent.operations.acceptance import propose

LOG = logging.getLogger(__name__)

VERB = "manage_image_cache"
LOOK_S = 5.0
"""How often it is looked whether a round is due: the interval may change meanwhile."""


class Housekeeper:
    """Asks for rounds of ``manage_image_cache``, every ``[image_cache] manager_interval`` seconds."""

    def __init__(self, manager: Manager, timekeeper: Timekeeper) -> None:
        self._manager = manager
        self._timekeeper = timekeeper
        self._last = time.monotonic()

    def start(self) -> None:
        """Begin; the first round is due after one interval."""
        concurrency.spawn(self._run)

    def look(self) -> str | None:
        """Ask for a round if one is due and can be made; return its operation's id."""
        interval = CONF.image_cache.manager_interval
        if not interval or time.monotonic() - self._last < interval or not self._can():
            return None
        self._last = time.monotonic()
        operation_id = str(uuid.uuid4())
        proposal = propose(self._manager.table[VERB], VERB, operation_id, {}, origin=Origin.AGENT)
        self._manager.engine.accept([proposal])
        return operation_id

    def _can(self) -> bool:
        """Whether a round makes sense: ages are told by the wall clock, what is in use by the hypervisor."""
        under_way = any(entry.verb.name == VERB for entry in self._manager.engine.entries)
        away = self._manager.hypervisor_away is not None
        return self._manager.supports(VERB) and self._timekeeper.trusted and not (under_way or away)

    def _run(self) -> None:
        while True:
            concurrency.sleep(min(LOOK_S, max(1.0, CONF.image_cache.manager_interval / 4)))
            try:
                self.look()
            except errors.ComputeError as error:
                LOG.warning("the image cache is not looked after for now: %s", error.message)
            except Exception:
                LOG.exception("the image cache could not be looked after")
