# SPDX-License-Identifier: Apache-2.0
"""Who gets a config drive, and what it is called: one rule for every driver."""

from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.virt.configdrive.given import Given

ASKED = "img_config_drive"
LABEL = "img_config_drive_label"
_MANDATORY = "mandatory"
VALUES = {ASKED: (_MANDATORY, "optional"), LABEL: ("config-2", "cidata")}
"""The image's properties about config drives, and what they may be."""


def is_wanted(given: Given) -> bool:
    """Return whether a guest gets a drive.

    It does when its request, its image (``img_config_drive=mandatory``) or the configuration
    (``force_config_drive``) says so, and also when the request brings what nothing but a drive can
    carry into the guest: a guest that silently lacks it would be worse than one with a drive too many.
    """
    instance = given.instance
    return bool(
        instance.config_drive
        or _property(given, ASKED) == _MANDATORY
        or CONF.force_config_drive
        or instance.user_data
        or instance.vendor_data
        or instance.ssh_keys
        or given.admin_password
        or given.injected_files
    )


def label(given: Given) -> str:
    """Return the drive's label: the image's (``img_config_drive_label``), or the configuration's."""
    return _property(given, LABEL) or str(CONF.config_drive_label)


def check_properties(given: Given) -> None:
    """Check what the image says about config drives.

    :raises InvalidArguments: if a property has another value than it may have
    """
    for name, values in VALUES.items():
        found = _property(given, name)
        if found is not None and found not in values:
            raise errors.InvalidArguments(f"{name}={found[:64]}: expected {' or '.join(values)}")


def _property(given: Given, name: str) -> str | None:
    image = given.instance.image
    found = None if image is None else image.properties.get(name)
    return None if found is None else found.strip().lower()
