# SPDX-License-Identifier: Apache-2.0
"""Options of the libvirt driver."""

from oslo_config import cfg

GROUP = cfg.OptGroup("libvirt", title="The libvirt driver")

OPTIONS = [
    (
        GROUP,
        [
            cfg.StrOpt(
                "virt_type",
                default="kvm",
                choices=["kvm", "qemu"],
                help="kvm needs a working /dev/kvm; qemu emulates, which is slow and runs everywhere.",
            ),
            cfg.StrOpt("connection_uri", default="qemu:///system", help="Where libvirt is."),
            cfg.StrOpt(
                "cpu_mode",
                choices=["host-model", "host-passthrough", "custom", "none"],
                help="The processor that guests see. Default: host-model under kvm, none under qemu.",
            ),
            cfg.ListOpt(
                "cpu_models", default=[], help="Models for cpu_mode = custom, the first that fits is taken."
            ),
            cfg.StrOpt(
                "hw_machine_type",
                help="Machine type of guests whose image names none. Default: q35 on x86_64.",
            ),
            cfg.StrOpt(
                "images_type",
                default="qcow2",
                choices=["qcow2", "raw", "flat"],
                help="How root disks are made: qcow2 is an overlay on the shared cached image.",
            ),
            cfg.IntOpt(
                "wait_soft_reboot_seconds",
                default=120,
                min=0,
                mutable=True,
                help="Seconds that a guest gets to shut down in a SOFT reboot before it is made HARD.",
            ),
            cfg.IntOpt(
                "call_threads",
                default=10,
                min=2,
                max=200,
                help="Native threads for calls that don't touch a guest's monitor.",
            ),
            cfg.IntOpt(
                "guest_threads",
                default=20,
                min=2,
                max=500,
                help="Native threads for calls that may hang on a guest. A hung one costs one thread only.",
            ),
            cfg.IntOpt(
                "call_timeout",
                default=120,
                min=1,
                mutable=True,
                help="Seconds after which a call to libvirt is given up.",
            ),
            cfg.FloatOpt(
                "reconnect_interval",
                default=1.0,
                min=0.05,
                help="Seconds between two attempts to reach libvirt.",
            ),
        ],
    )
]
