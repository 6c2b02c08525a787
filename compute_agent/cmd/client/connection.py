# SPDX-License-Identifier: Apache-2.0
"""From the settings to the agent.

What is given on the command line wins over the environment, and that over the configuration file of the
agent on this very machine. The messaging library is imported here, when it is needed.
"""

import logging
import os
import uuid
import warnings
from typing import Any

from compute_agent.cmd.client.problems import SettingsError
from compute_agent.cmd.client.session import Api, Settings

DEFAULT_CONFIG = "/etc/compute-agent/compute-agent.conf"
HOST_VARIABLE = "COMPUTE_AGENT_HOST"
URL_VARIABLE = "COMPUTE_AGENT_TRANSPORT_URL"


def connect(settings: Settings) -> Api:
    """Return the agent's interface. Nothing is sent yet.

    :raises SettingsError: if it can't be told which host, or which broker
    """
    with warnings.catch_warnings(action="ignore"):  # the libraries' own, on import
        from compute_agent.rpc import ComputeAPI, create_transport
    logging.getLogger().addHandler(logging.NullHandler())  # what goes wrong is told once, by us
    url = settings.transport_url
    if url is None and settings.config_file is None:
        url = os.environ.get(URL_VARIABLE)
    conf = _read(settings, needed=url is None)
    host = settings.host or os.environ.get(HOST_VARIABLE) or _host_of(conf)
    if not host:
        raise SettingsError(f"which host? Give --host, or set {HOST_VARIABLE}")
    context = {"request_id": f"req-{uuid.uuid4()}"}
    return ComputeAPI(create_transport(url=url), host, timeout=settings.timeout, context=context)


def _read(settings: Settings, needed: bool) -> Any:
    """Read the configuration file, if there is one; return the options."""
    from oslo_config import cfg

    path = settings.config_file
    if path is None and needed:
        path = DEFAULT_CONFIG if os.path.exists(DEFAULT_CONFIG) else None
        if path is None:
            raise SettingsError(f"which broker? Give --transport-url or --config-file, or set {URL_VARIABLE}")
    cfg.CONF([], project="compute-agent", default_config_files=[path] if path else [], default_config_dirs=[])
    return cfg.CONF if path else None


def _host_of(conf: Any) -> str | None:
    """Return the host that a configuration file is for."""
    if conf is None:
        return None
    from compute_agent.conf import CONF

    return str(CONF.host_name)
