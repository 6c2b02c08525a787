# SPDX-License-Identifier: Apache-2.0
"""``--check-config``: reads every option, so that a wrong value shows before it hurts."""

import logging
import sys
from collections.abc import Iterator
from typing import Any

from oslo_config import cfg

from compute_agent.conf.opts import registered

LOG = logging.getLogger(__name__)


def problems(conf: cfg.ConfigOpts) -> Iterator[str]:
    """Yield what is wrong with what ``conf`` read, one sentence each."""
    yield from wrong_values(conf)
    yield from _unknown(conf)


def wrong_values(conf: cfg.ConfigOpts) -> Iterator[str]:
    """Yield what is wrong with the values of our own options: the agent does not start with one."""
    for group, options in registered():
        name = group.name if isinstance(group, cfg.OptGroup) else "DEFAULT"
        for option in options:
            try:
                _ = conf[option.dest] if name == "DEFAULT" else conf[name][option.dest]
            except (cfg.Error, ValueError) as error:
                yield f"[{name}] {option.name}: {error}"


def keep_good_values(conf: cfg.ConfigOpts) -> None:
    """From now on, let ``conf`` not take over a configuration with a wrong value when files are read again.

    oslo.config takes over whatever the files say; the wrong value would show where it is next read.
    """
    good: list[Any] = [conf._mutable_ns]

    def judge(conf: cfg.ConfigOpts, _changed: object) -> None:
        if wrong := list(wrong_values(conf)):
            LOG.error("the configuration is not taken over: %s", "; ".join(wrong))
            conf._mutable_ns = good[0]
            conf.set_override("check_config", conf.check_config)  # forgets what it has read
        else:
            good[0] = conf._mutable_ns

    conf.register_mutate_hook(judge)


def _unknown(conf: cfg.ConfigOpts) -> Iterator[str]:
    ours: dict[str, set[str]] = {}
    for group, options in registered():  # a group may have its options in several modules
        name = group.name if isinstance(group, cfg.OptGroup) else "DEFAULT"
        ours.setdefault(name, set()).update(option.name for option in options)
    ours.pop("DEFAULT")  # other libraries have options there
    known = {"DEFAULT", *conf._groups}
    for path in conf.config_file or ():
        sections: dict[str, dict[str, list[str]]] = {}
        cfg.ConfigParser(path, sections).parse()
        for section, values in sections.items():
            if section not in known:
                yield f"[{section}]: no such section (in {path})"
            for name in sorted(values.keys() - ours.get(section, values.keys())):
                yield f"[{section}] {name}: no such option (in {path})"


def report(conf: cfg.ConfigOpts) -> int:
    """Print what is wrong; return the exit status: 0 when nothing is."""
    found = list(problems(conf))
    for problem in found:
        print(problem, file=sys.stderr)
    print(f"{len(found)} problems" if found else "the configuration can be used")
    return 1 if found else 0
