# SPDX-License-Identifier: Apache-2.0
"""Options of the host as a whole."""

from oslo_config import cfg

GROUP = cfg.OptGroup("host", title="The host")

OPTIONS = [
    (
        GROUP,
        [
            cfg.BoolOpt(
                "allow_power_actions",
                default=False,
                help="Whether host_power_action may reboot or switch off the host.",
            ),
            cfg.FloatOpt(
                "placement_timeout",
                default=600.0,
                min=1,
                mutable=True,
                help="Seconds for which a drain waits for a host for a guest, after host.placement_needed.",
            ),
            cfg.IntOpt(
                "reserved_memory_mb", default=512, min=0, mutable=True, help="MiB kept back for the host."
            ),
            cfg.IntOpt(
                "reserved_disk_mb", default=0, min=0, mutable=True, help="MiB kept back below instances_path."
            ),
            cfg.FloatOpt(
                "cpu_allocation_ratio",
                default=16.0,
                min=0.01,
                mutable=True,
                help="Virtual per real processor.",
            ),
            cfg.FloatOpt(
                "ram_allocation_ratio", default=1.0, min=0.01, mutable=True, help="Promised per real memory."
            ),
        ],
    )
]
