# SPDX-License-Identifier: Apache-2.0
"""All groups of options: to register them, and to generate the sample configuration."""

from oslo_config import cfg

from compute_agent.conf import (
    agent,
    cold_migration,
    configdrive,
    consoles,
    disks,
    events,
    fake,
    health,
    host,
    images,
    journal,
    libvirt,
    live_migration,
    volumes,
)

MODULES = (
    agent,
    configdrive,
    disks,
    libvirt,
    live_migration,
    cold_migration,
    images,
    volumes,
    consoles,
    events,
    journal,
    host,
    health,
    fake,
)


def list_opts() -> list[tuple[cfg.OptGroup | str, list[cfg.Opt]]]:
    """Return every option by its group, as the sample configuration shows it."""
    return [(group, [_documented(option) for option in options]) for group, options in registered()]


def _documented(option: cfg.Opt) -> cfg.Opt:
    return agent.DOCUMENTED.get(option, option)


def registered() -> list[tuple[cfg.OptGroup | str, list[cfg.Opt]]]:
    """Return every option by its group, as it is registered."""
    return [(group, list(options)) for module in MODULES for group, options in module.OPTIONS]


def register(conf: cfg.ConfigOpts) -> None:
    """Register every option with ``conf``. Repeating it is harmless."""
    for group, options in registered():
        if isinstance(group, cfg.OptGroup):
            conf.register_group(group)
            conf.register_opts(options, group=group)
        else:
            conf.register_opts(options)
