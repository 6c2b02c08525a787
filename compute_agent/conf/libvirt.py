# SPDX-License-Identifier: Apache-2.0
"""Options of the libvirt driver."""

from oslo_config import cfg, types

_CACHE_MODE = r"^(file|block|network)=(none|writeback|writethrough|directsync|unsafe)\Z"

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
                help="How disks are made: as qcow2 files, the root disk as an overlay on the shared cached "
                "image (see use_cow_images), or as raw files with holes; flat is another name of raw.",
            ),
            cfg.ListOpt(
                "disk_cachemodes",
                item_type=types.String(regex=_CACHE_MODE),
                default=[],
                help="How the host's page cache is used, by kind of disk: file=MODE, block=MODE, "
                "network=MODE. MODE is none, writeback, writethrough, directsync or unsafe; what is not "
                "named is QEMU's default.",
            ),
            cfg.StrOpt(
                "disk_io_mode",
                choices=["native", "threads", "io_uring"],
                help="How QEMU reads and writes disks of this host. native is for disks whose "
                "disk_cachemodes is none or directsync, others are left alone. Default: QEMU's.",
            ),
            cfg.StrOpt(
                "hw_disk_discard",
                choices=["ignore", "unmap"],
                help="unmap: room that a guest gives back goes back to the host. Default: QEMU's, ignore.",
            ),
            cfg.StrOpt(
                "disk_detect_zeroes",
                choices=["off", "on", "unmap"],
                help="Whether zeros that a guest writes become holes (on), or are given back to the host "
                "where hw_disk_discard is unmap (unmap). Default: QEMU's, off.",
            ),
            cfg.StrOpt(
                "filter_driver",
                default="nwfilter",
                choices=["nwfilter", "none"],
                help="Who filters the packets of interfaces with port_filter. nwfilter: the agent does, by "
                "libvirt's network filters (ebtables and iptables; net.bridge.bridge-nf-call-iptables and "
                "-ip6tables have to be 1 for the rules of security groups). none: somebody else does; "
                "instances whose security groups bring rules are refused then.",
            ),
            cfg.IntOpt(
                "num_pcie_ports",
                default=16,
                min=0,
                max=28,
                help="Slots for the devices of a q35 guest, those that are attached later too. 0: libvirt "
                "leaves room for one more.",
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
            cfg.IntOpt(
                "guest_agent_timeout",
                default=30,
                min=1,
                mutable=True,
                help="Seconds that a guest's agent gets to answer.",
            ),
            cfg.IntOpt(
                "freeze_limit",
                default=300,
                min=1,
                mutable=True,
                help="Seconds after which a guest that was quiesced and not unquiesced is thawed all the "
                "same.",
            ),
            cfg.IntOpt(
                "snapshot_bandwidth_mb",
                default=0,
                min=0,
                mutable=True,
                help="MiB per second at which a running guest's disk is copied for a snapshot; 0: no limit.",
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
