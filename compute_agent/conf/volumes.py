# SPDX-License-Identifier: Apache-2.0
"""Options of volumes."""

from oslo_config import cfg

GROUP = cfg.OptGroup("volumes", title="Volumes of guests")

OPTIONS = [
    (
        GROUP,
        [
            cfg.ListOpt(
                "allowed_paths",
                default=["$instances_path/volumes/"],
                help="Directories below which files, devices and Unix sockets may be that a connection_info "
                "names. Links are followed first.",
            ),
            cfg.IntOpt(
                "detach_attempts",
                default=8,
                min=1,
                mutable=True,
                help="How often a guest is asked to release a volume.",
            ),
            cfg.IntOpt(
                "detach_timeout",
                default=20,
                min=1,
                mutable=True,
                help="Seconds that a guest gets each time to release a volume.",
            ),
            cfg.FloatOpt(
                "connect_timeout",
                default=10.0,
                min=0.1,
                mutable=True,
                help="Seconds that the server of a volume gets to take a connection.",
            ),
            cfg.IntOpt(
                "nbd_reconnect_delay",
                default=60,
                min=0,
                help="Seconds that QEMU holds a guest's requests while an NBD server is away, before the "
                "guest sees errors; 0: none.",
            ),
            cfg.StrOpt(
                "iscsi_initiator",
                help="Name of this host to iSCSI targets. Default: what /etc/iscsi/initiatorname.iscsi says, "
                "else one made of the host's name.",
            ),
            cfg.BoolOpt(
                "iscsi_use_multipath",
                default=False,
                help="Connect iSCSI volumes through the kernel and os-brick, over all paths that there are.",
            ),
            cfg.StrOpt(
                "nfs_mount_point_base",
                default="$state_path/mnt",
                help="Directory below which NFS exports of volumes are mounted.",
            ),
            cfg.IntOpt(
                "swap_bandwidth_mb",
                default=0,
                min=0,
                mutable=True,
                help="MiB per second at which swap_volume copies; 0: no limit.",
            ),
        ],
    )
]
