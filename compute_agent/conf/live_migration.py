# SPDX-License-Identifier: Apache-2.0
"""Options of the libvirt driver about live migration."""

from oslo_config import cfg

from compute_agent.conf.libvirt import GROUP

OPTIONS = [
    (
        GROUP,
        [
            cfg.StrOpt(
                "live_migration_scheme",
                default="tls",
                choices=["tls", "tcp", "ssh", "libssh2"],
                help="How libvirtd reaches another host's. tcp has no protection: for closed networks only.",
            ),
            cfg.StrOpt(
                "live_migration_inbound_addr",
                help="Where other hosts reach this one's libvirtd and QEMU. Default: my_ip.",
            ),
            cfg.BoolOpt(
                "live_migration_with_native_tls",
                default=False,
                mutable=True,
                help="Encrypt what QEMU sends, with the certificates of qemu.conf. Without, memory and disks "
                "go over the network in the clear, whatever live_migration_scheme says.",
            ),
            cfg.IntOpt(
                "live_migration_parallel_connections",
                default=0,
                min=0,
                max=64,
                mutable=True,
                help="Connections over which memory is copied at once; 0 or 1: one.",
            ),
            cfg.IntOpt(
                "live_migration_bandwidth",
                default=0,
                min=0,
                mutable=True,
                help="MiB per second at most; 0: no limit. The policy of a migration goes before.",
            ),
            cfg.IntOpt(
                "live_migration_downtime",
                default=500,
                min=50,
                mutable=True,
                help="Milliseconds for which a guest may be held at the end of a migration, at most.",
            ),
            cfg.IntOpt(
                "live_migration_downtime_steps",
                default=10,
                min=1,
                max=100,
                mutable=True,
                help="In how many steps the downtime grows to its limit.",
            ),
            cfg.IntOpt(
                "live_migration_downtime_delay",
                default=75,
                min=1,
                mutable=True,
                help="Seconds between two of these steps, for each GiB of memory.",
            ),
            cfg.BoolOpt(
                "live_migration_permit_post_copy",
                default=False,
                mutable=True,
                help="Whether a guest may be switched over before its memory is there. Should the network "
                "fail in this time, the guest stands still until the rest has come; if that does not "
                "succeed, it is lost and has to be started again.",
            ),
            cfg.IntOpt(
                "live_migration_post_copy_recovery",
                default=300,
                min=0,
                mutable=True,
                help="Seconds for which nothing has to have come over of a post-copy that broke off, before "
                "the guest is given up. Until then it is tried to be gone on with.",
            ),
            cfg.BoolOpt(
                "live_migration_permit_auto_converge",
                default=False,
                mutable=True,
                help="Whether a guest that changes its memory faster than it is copied may be slowed down.",
            ),
            cfg.BoolOpt(
                "live_migration_trust_shared_storage",
                default=False,
                mutable=True,
                help="Move guests also where libvirt does not know the shared file system of instances_path "
                "as coherent. The hosts have to see each other's writes at once.",
            ),
        ],
    )
]
