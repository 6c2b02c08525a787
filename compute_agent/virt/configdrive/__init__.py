# SPDX-License-Identifier: Apache-2.0
"""Config drives: what a guest's cloud-init reads at its first boot, as a drive.

A pure builder: from an instance and what came with its request to the bytes of a drive, the same
bytes for the same input. It knows no driver, writes no file and runs no program. What a message
holds is checked here before any of it is used, so every driver refuses the same things.

    given = Given(instance=instance, admin_password="…", injected_files=[("/etc/motd", "aGkK")])
    if is_wanted(given):
        data = build(files(given), "iso9660", label(given))
"""

from compute_agent.virt.configdrive.content import check, files
from compute_agent.virt.configdrive.drive import build
from compute_agent.virt.configdrive.given import Given
from compute_agent.virt.configdrive.wanted import is_wanted, label

__all__ = ["Given", "build", "check", "files", "is_wanted", "label"]
