# SPDX-License-Identifier: Apache-2.0
"""Options of config drives, in ``[DEFAULT]`` as in OpenStack."""

from oslo_config import cfg

OPTIONS = [
    (
        "DEFAULT",
        [
            cfg.StrOpt(
                "config_drive_format",
                default="iso9660",
                choices=[
                    ("iso9660", "with Joliet and Rock Ridge; any guest reads it"),
                    ("vfat", "16 MiB at least; for guests that read no ISO 9660"),
                ],
                mutable=True,
                help="The file system of new config drives.",
            ),
            cfg.BoolOpt(
                "force_config_drive",
                default=False,
                mutable=True,
                help="Give every new guest a config drive, whether its request asks for one or not.",
            ),
            cfg.StrOpt(
                "config_drive_device",
                default="cdrom",
                choices=[
                    ("cdrom", "an optical drive, on the bus that hw_cdrom_bus names"),
                    ("disk", "a disk, on the bus that hw_disk_bus names"),
                ],
                mutable=True,
                help="As what a guest sees an iso9660 drive. A vfat drive is always a disk.",
            ),
            cfg.StrOpt(
                "config_drive_label",
                default="config-2",
                choices=[
                    ("config-2", "cloud-init reads it as ConfigDrive (OpenStack's layout)"),
                    ("cidata", "cloud-init reads it as NoCloud, without admin_password and injected files"),
                ],
                mutable=True,
                help="The label of new config drives; the image's img_config_drive_label goes first. "
                "Each has both layouts; a guest takes one by the label.",
            ),
        ],
    )
]
