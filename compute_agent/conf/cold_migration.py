# SPDX-License-Identifier: Apache-2.0
"""Options of the libvirt driver about cold migration: how disks get from host to host."""

from oslo_config import cfg, types

from compute_agent.conf.libvirt import GROUP

OPTIONS = [
    (
        GROUP,
        [
            cfg.StrOpt(
                "cold_migration_inbound_addr",
                help="Where this host takes in disks of other hosts. Default: live_migration_inbound_addr, "
                "or else my_ip.",
            ),
            cfg.Opt(
                "cold_migration_ports",
                type=types.String(regex=r"^[1-9][0-9]{3,4}-[1-9][0-9]{3,4}\Z"),
                default="49300-49399",
                mutable=True,
                help="Ports at which disks are taken in, first and last: one for each instance that comes. "
                "Open them to the other hosts in the firewall. What goes over them is encrypted, with a key "
                "that is made for each migration.",
            ),
            cfg.IntOpt(
                "cold_migration_chunk",
                default=256,
                min=1,
                max=65536,
                mutable=True,
                help="MiB after which the destination brings to its disk what has come, and the source notes "
                "that: so much is sent again at most when a transfer was interrupted.",
            ),
            cfg.IntOpt(
                "cold_migration_bandwidth",
                default=0,
                min=0,
                mutable=True,
                help="MiB per second at most for the disks of one instance; 0: no limit. The policy of a "
                "migration goes before.",
            ),
            cfg.IntOpt(
                "cold_migration_stall_timeout",
                default=60,
                min=1,
                max=3600,
                mutable=True,
                help="Seconds after which a destination that takes no data is taken for gone.",
            ),
        ],
    )
]
