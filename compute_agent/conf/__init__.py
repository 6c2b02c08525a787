# SPDX-License-Identifier: Apache-2.0
"""The options, one module per group. Everyone reads them from :data:`CONF`.

oslo.messaging registers some of its options on the global object alone, so a private
``ConfigOpts`` is not possible.
"""

from oslo_config import cfg

from compute_agent.conf import opts

CONF = cfg.CONF
opts.register(CONF)
