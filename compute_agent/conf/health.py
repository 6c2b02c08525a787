# SPDX-License-Identifier: Apache-2.0
"""Options of the agent's watch over itself."""

from oslo_config import cfg

GROUP = cfg.OptGroup("health", title="Health")

OPTIONS = [
    (
        GROUP,
        [
            cfg.FloatOpt(
                "hub_lag_warning",
                default=1.0,
                min=0.01,
                mutable=True,
                help="Seconds of a blocked hub that are reported.",
            ),
            cfg.IntOpt(
                "state_reserve_mb",
                default=64,
                min=1,
                mutable=True,
                help="MiB that must be free below state_path; with less, the agent stops taking messages. "
                "A quarter as much is kept there in a file, so that what has begun can end on a full disk.",
            ),
        ],
    )
]
