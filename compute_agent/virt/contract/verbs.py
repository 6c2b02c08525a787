# SPDX-License-Identifier: Apache-2.0
"""Which members each verb of the interface needs, so that a driver's class tells its verbs."""

from collections.abc import Mapping

from compute_agent.virt.contract.base import is_unsupported

_OWN_NAME: tuple[str, ...] = (
    "spawn",
    "destroy",
    "rebuild",
    "reboot",
    "power_on",
    "power_off",
    "pause",
    "unpause",
    "suspend",
    "resume",
    "soft_delete",
    "restore",
    "rescue",
    "unrescue",
    "snapshot",
    "attach_volume",
    "detach_volume",
    "swap_volume",
    "extend_volume",
    "volume_snapshot_create",
    "volume_snapshot_delete",
    "attach_interface",
    "detach_interface",
    "confirm_migration",
    "live_migration_abort",
    "live_migration_force_complete",
    "set_admin_password",
    "inject_file",
    "change_instance_metadata",
    "trigger_crash_dump",
    "quiesce",
    "unquiesce",
    "balloon_memory",
    "refresh_security_group_rules",
    "refresh_instance_security_rules",
    "destroy_orphan",
    "set_host_enabled",
    "host_power_action",
    "cache_images",
    "manage_image_cache",
)

MEMBERS: Mapping[str, tuple[str, ...]] = {
    **{verb: (verb,) for verb in _OWN_NAME},
    "evacuate": ("rebuild", "instance_on_disk"),
    "update_instance": ("set_description",),
    "migrate": ("live_migration", "pre_live_migration", "see_migration"),
    "host_maintenance_mode": ("live_migration", "pre_live_migration", "see_migration"),
    "revert_migration": ("finish_revert_migration", "migrate_disk_and_power_off"),
    "refresh_security_group_members": ("refresh_instance_security_rules",),
    "refresh_provider_fw_rules": ("refresh_instance_security_rules",),
    "adopt": ("get_all_info", "get_description"),
    "confirm_instances": ("resume_state_on_host_boot",),
    "forget": (),
    "external_event": (),
    "cancel_operation": (),
}
"""Every verb and the members that it needs."""


def verbs_of(driver: type) -> frozenset[str]:
    """Return the verbs whose members a driver's class has all filled in."""
    return frozenset(
        verb
        for verb, members in MEMBERS.items()
        if not any(is_unsupported(driver, member) for member in members)
    )
