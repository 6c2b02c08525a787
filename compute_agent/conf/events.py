# SPDX-License-Identifier: Apache-2.0
"""Options of events."""

from oslo_config import cfg

GROUP = cfg.OptGroup("events", title="Events")

OPTIONS = [
    (
        GROUP,
        [
            cfg.IntOpt(
                "retention_days",
                default=7,
                min=0,
                mutable=True,
                help="Days that sent events are kept for get_events. What is unsent is never aged out.",
            ),
            cfg.IntOpt(
                "retention_count", default=1_000_000, min=1000, mutable=True, help="Sent events kept at most."
            ),
        ],
    )
]
