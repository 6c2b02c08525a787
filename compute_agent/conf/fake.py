# SPDX-License-Identifier: Apache-2.0
"""Options of the fake driver: how large its host is, what goes wrong on it, what outlives the agent."""

from oslo_config import cfg

GROUP = cfg.OptGroup("fake", title="The fake driver")

OPTIONS = [
    (
        GROUP,
        [
            cfg.IntOpt("vcpus", default=10**6, min=1, help="Processors of the fake host."),
            cfg.IntOpt("memory_mb", default=2**32, min=1, help="Memory of the fake host, in MiB."),
            cfg.IntOpt("local_gb", default=2**32, min=1, help="Disk of the fake host, in GiB."),
            cfg.ListOpt(
                "bridges",
                default=[],
                help="Bridges of the fake host; empty means that it has every bridge that is asked for.",
            ),
            cfg.ListOpt(
                "faults",
                default=[],
                help="What goes wrong, and where: MEMBER or MEMBER.STEP = fail[:ERROR], hang[:SECONDS] or "
                "slow:SECONDS, each with *TIMES behind it if not for ever; for instance "
                "spawn.start=fail:DiskFull*1, power_off=hang, pause=slow:0.5.",
            ),
            cfg.StrOpt(
                "ledger",
                help="File in which the fake hypervisor keeps its guests, so that they outlive the agent: "
                "append-only, one JSON object per line. A line that a test appends, such as "
                '{"guest": UUID, "power": "shutdown"}, happens to the guest. Default: nothing is kept.',
            ),
            cfg.StrOpt(
                "hosts_path",
                help="Directory in which the fake hosts of one machine have their ledgers, HOST.ledger, so "
                "that agents in different processes can move guests to each other. Each host's ledger is "
                "there unless the option above names another. Default: guests move within a process only.",
            ),
            cfg.FloatOpt(
                "transfer_time",
                default=0.0,
                min=0,
                help="Seconds that a migration of a fake guest takes, live or cold.",
            ),
            cfg.FloatOpt(
                "poll_interval",
                default=0.2,
                min=0,
                help="Seconds between two looks for lines that others have appended to the ledger; 0: never.",
            ),
            cfg.FloatOpt(
                "guest_shutdown_time",
                default=0.0,
                min=0,
                help="Seconds that a fake guest takes to shut down when it is asked to.",
            ),
            cfg.IntOpt(
                "wait_soft_reboot_seconds",
                default=120,
                min=0,
                help="Seconds that a guest gets to shut down in a SOFT reboot before it is made HARD.",
            ),
        ],
    )
]
