# SPDX-License-Identifier: Apache-2.0
"""Options of the disks that are made on this host for instances."""

from oslo_config import cfg

ENCRYPTION = cfg.OptGroup(
    "ephemeral_storage_encryption", title="Encryption of the disks that are made on this host"
)

OPTIONS = [
    (
        "DEFAULT",
        [
            cfg.BoolOpt(
                "use_cow_images",
                default=True,
                help="A qcow2 root disk is an overlay on the shared cached image. False: a copy that stands "
                "alone.",
            ),
            cfg.StrOpt(
                "preallocate_images",
                default="none",
                choices=["none", "space"],
                help="space: a disk takes all its room on the host when it is made, so that no guest can "
                "find the host full later. The file system has to offer fallocate.",
            ),
            cfg.StrOpt(
                "default_ephemeral_format",
                default="ext4",
                choices=["ext2", "ext3", "ext4", "xfs", "vfat", "none"],
                help="The file system of ephemeral disks; none leaves them blank. Guests whose image says "
                "os_type=windows get blank ones.",
            ),
        ],
    ),
    (
        ENCRYPTION,
        [
            cfg.BoolOpt(
                "enabled",
                default=False,
                help="Encrypt the disks of every instance. Else those whose flavor has "
                "hw:ephemeral_encryption=true, or whose image has hw_ephemeral_encryption=true.",
            ),
            cfg.StrOpt(
                "key_directory",
                default="$state_path/disk_keys",
                help="Where the keys of encrypted disks are kept, which only the agent's user may read. "
                "Without them the disks are lost. It should not be on the storage that instances_path is on.",
            ),
        ],
    ),
]
