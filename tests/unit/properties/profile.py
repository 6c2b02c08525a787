# SPDX-License-Identifier: Apache-2.0
"""How far the property tests look: the same few hundred steps in each run, or new ones for as long as wanted.

`PROPERTIES=long` draws new examples in each run, many and long ones, and keeps what failed in `.hypothesis`.
Without it the examples follow from the tests' code alone, so that a run of CI can't fail by chance.
"""

import os

from hypothesis import HealthCheck, settings

LONG = os.environ.get("PROPERTIES") == "long"


def explore(examples: int, steps: int) -> settings:
    """Return the settings of a state machine.

    :param examples: how many runs of it, twenty times as many in the long form
    :param steps: how many steps a run has at most, twice as many in the long form
    """
    common = settings(
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )
    if LONG:
        return settings(common, max_examples=20 * examples, stateful_step_count=2 * steps)
    return settings(common, max_examples=examples, stateful_step_count=steps, derandomize=True, database=None)
