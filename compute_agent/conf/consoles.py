# SPDX-License-Identifier: Apache-2.0
"""Options of consoles."""

from oslo_config import cfg

VNC = cfg.OptGroup("vnc", title="VNC consoles")
SPICE = cfg.OptGroup("spice", title="SPICE consoles")
SERIAL = cfg.OptGroup("serial_console", title="Serial consoles")


def _group(name: str) -> list[cfg.Opt]:
    return [
        cfg.BoolOpt("enabled", default=False, help=f"Give new guests a {name} console."),
        cfg.HostAddressOpt(
            "server_listen", default="127.0.0.1", help="Address that the guest's console listens at."
        ),
    ]


OPTIONS = [(VNC, _group("VNC")), (SPICE, _group("SPICE")), (SERIAL, _group("serial"))]
