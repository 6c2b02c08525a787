# SPDX-License-Identifier: Apache-2.0
"""Options of the agent itself, in ``[DEFAULT]``."""

import socket
from typing import Any

from oslo_config import cfg, types

HOST_NAME = types.String(regex=r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z", max_length=200)


class _Host(cfg.Opt):
    """``[DEFAULT] host``, to be read as ``CONF.host_name``: ``CONF.host`` is the group ``[host]``."""

    def _get_from_namespace(self, namespace: Any, group_name: str | None) -> Any:
        return namespace._get_value([(group_name, self.name)], current_name=(group_name, self.name))


_HOST: dict[str, Any] = {
    "type": HOST_NAME,
    "default": socket.gethostname(),
    "sample_default": "node-1.example.org",
    "help": "Name of this host: its queue is compute.<host>. A state directory belongs to one name.",
}
HOST = _Host("host", dest="host_name", **_HOST)
DOCUMENTED: dict[cfg.Opt, cfg.Opt] = {HOST: cfg.Opt("host", **_HOST)}
"""What the sample configuration shows instead of an option."""

OPTIONS = [
    (
        "DEFAULT",
        [
            HOST,
            cfg.HostAddressOpt(
                "my_ip",
                default="127.0.0.1",
                sample_default="192.0.2.10",
                help="Address at which other hosts reach this one.",
            ),
            cfg.StrOpt(
                "state_path",
                default="/var/lib/compute-agent",
                help="Directory of the state file. It belongs to one agent at a time.",
            ),
            cfg.StrOpt(
                "instances_path",
                default="$state_path/instances",
                help="Directory of the instances' disks and of the image cache.",
            ),
            cfg.StrOpt(
                "compute_driver",
                default="libvirt.LibvirtDriver",
                help="The driver: a name below compute_agent.virt (libvirt.LibvirtDriver, fake.FakeDriver), "
                "the name of an entry point in the group compute_agent.drivers, or a full dotted path.",
            ),
            cfg.IntOpt(
                "max_concurrent_builds",
                default=10,
                min=1,
                max=1000,
                mutable=True,
                help="How many spawns, rebuilds and evacuations run at once; more wait in line.",
            ),
            cfg.IntOpt(
                "max_concurrent_snapshots",
                default=5,
                min=1,
                max=1000,
                mutable=True,
                help="How many snapshots run at once.",
            ),
            cfg.IntOpt(
                "max_concurrent_live_migrations",
                default=1,
                min=1,
                max=100,
                mutable=True,
                help="How many live migrations run at once.",
            ),
            cfg.IntOpt(
                "max_concurrent_cold_migrations",
                default=2,
                min=1,
                max=100,
                mutable=True,
                help="How many cold migrations and resizes run at once.",
            ),
            cfg.StrOpt(
                "on_host_boot",
                default="leave",
                choices=[
                    ("leave", "guests stay off"),
                    ("resume", "those that ran are started"),
                    ("confirm", "host.hello is sent; those that confirm_instances names are started"),
                ],
                help="What becomes of the guests when the host has booted.",
            ),
            cfg.IntOpt(
                "reclaim_instance_interval",
                default=0,
                min=0,
                mutable=True,
                help="Seconds after which a soft-deleted instance is destroyed, counted while the host is "
                "up. 0: it stays until destroy or restore.",
            ),
            cfg.IntOpt(
                "resize_confirm_window",
                default=0,
                min=0,
                mutable=True,
                help="Seconds after which a cold migration or a resize is confirmed by the agent of the "
                "destination, counted while the host is up. 0: it stays resized until confirm_migration "
                "or revert_migration.",
            ),
            cfg.FloatOpt(
                "report_interval",
                default=10.0,
                min=0.1,
                max=3600,
                mutable=True,
                help="Seconds between two host.report events. A host that was silent for three is not alive.",
            ),
            cfg.StrOpt(
                "concurrency_backend",
                default="eventlet",
                choices=["eventlet"],
                help="The kind of threads that the agent runs on. This release offers greenthreads.",
            ),
            cfg.FloatOpt(
                "operation_timeout",
                default=3600.0,
                min=1,
                mutable=True,
                help="Seconds from its start after which an operation without a timeout_s ends with Timeout.",
            ),
        ],
    )
]
