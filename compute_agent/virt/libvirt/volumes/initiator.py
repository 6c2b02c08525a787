# SPDX-License-Identifier: Apache-2.0
"""Who this host is to an iSCSI target: what ``initiatorname.iscsi`` says, else a name of our own."""

import re

from compute_agent.conf import CONF

FILE = "/etc/iscsi/initiatorname.iscsi"
_PREFIX = "iqn.2025-01.org.compute-agent"
_LINE = re.compile(r"^InitiatorName=(iqn\.[0-9]{4}-[0-9]{2}\.[A-Za-z0-9.:_-]{1,200})[ \t]*$", re.M)


def name() -> str:
    """Return the initiator's name, the same one always: targets let hosts in by it."""
    configured: str | None = CONF.volumes.iscsi_initiator
    return configured or _from_file() or f"{_PREFIX}:{re.sub('[^a-z0-9.-]', '-', CONF.host_name.lower())}"


def _from_file() -> str | None:
    try:
        with open(FILE, encoding="ascii", errors="replace") as file:
            found = _LINE.search(file.read(65536))
    except OSError:
        return None
    return found[1] if found else None
