# SPDX-License-Identifier: Apache-2.0
"""Options of the journal of operations."""

from oslo_config import cfg

GROUP = cfg.OptGroup("journal", title="The journal of operations")

OPTIONS = [
    (
        GROUP,
        [
            cfg.IntOpt(
                "max_queued",
                default=10_000,
                min=1,
                mutable=True,
                help="Operations that may wait; a further one is answered with HostBusy.",
            ),
            cfg.IntOpt(
                "retention_days",
                default=7,
                min=0,
                max=30,
                mutable=True,
                help="Days that records of ended operations are kept. Their ids are remembered for 30.",
            ),
            cfg.IntOpt(
                "max_attempts",
                default=3,
                min=1,
                mutable=True,
                help="How often an interrupted operation is begun before it is undone and fails.",
            ),
            cfg.IntOpt(
                "max_running",
                default=100,
                min=1,
                max=10_000,
                mutable=True,
                help="Operations that run at once, over all limits of their own.",
            ),
        ],
    )
]
