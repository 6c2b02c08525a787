# SPDX-License-Identifier: Apache-2.0
"""Is this host fit to run the agent? The checks of ``compute-agent-status``, one module per thing to look at.

A check is a generator of findings. It only looks: nothing is started or changed, nothing that it makes stays,
and whatever is missing on the host is a finding, not a failure of the command. Each imports what it needs
when it runs.
"""
