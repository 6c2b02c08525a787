# SPDX-License-Identifier: Apache-2.0
"""The wire: how verbs and questions come in, and how replies and events go out.

What a scheduler imports is :class:`ComputeAPI` and :func:`create_transport`; neither needs
greenthreads, and both live with whatever the scheduler runs on.
"""

from compute_agent.rpc.client import ComputeAPI
from compute_agent.rpc.transport import create_transport, describe

__all__ = ["ComputeAPI", "create_transport", "describe"]
