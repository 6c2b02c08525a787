# SPDX-License-Identifier: Apache-2.0
"""What went wrong, whoever noticed it, in the one form that is printed.

The agent's answers are typed already. What went wrong on the way gets the name of its exception as its
code, and a hint from the table here. Exceptions of the messaging library are known by name, so that it
need not be imported to tell that something else failed.
"""

from collections.abc import Mapping

from compute_agent.model.errors import ComputeError, Error


class SettingsError(Exception):
    """Where the agent is can't be told; the message says what is missing."""


HINTS: Mapping[str, str] = {
    "HostNotFound": "check --host, and that the agent there uses this broker (compute-agent-status check)",
    "BrokerUnavailable": "check that the broker runs, and host, port, user and password of the transport url",
    "NoAnswer": "the agent may be away: alive is who sent a host.report within three intervals",
    "NotEnded": "it goes on: `operations watch ID` follows it, `operations cancel ID` stops it",
    "SettingsError": "see compute-agentctl --help",
    "InvalidTransportURL": "it looks like rabbit://user:password@broker:5672/",
    "DriverLoadFailure": "the transport url has to begin with rabbit://",
    "ConfigFilesNotFoundError": "check --config-file",
    "ConfigFilesPermissionDeniedError": "run it as a user who may read the file, or give --transport-url",
    "ConfigFileParseError": "compute-agent --check-config tells more",
    "ConfigFileValueError": "compute-agent --check-config tells more",
}
"""What to do, by the name of the exception."""

NAMED = ("OSError", "AMQPError", "KombuError", "MessagingException", "Error", "ClientError")
"""Bases of what may go wrong on the way; anything else is a bug, and is shown as one."""


def known(error: BaseException) -> bool:
    """Return whether ``error`` can be told in one line, without a traceback."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, ComputeError | SettingsError) or not names.isdisjoint(NAMED)


def problem(error: BaseException) -> Error:
    """Return ``error`` in the form that is printed."""
    if isinstance(error, ComputeError):
        return error.to_error()
    name = type(error).__name__
    return Error(code=name, message=str(error) or name, hint=HINTS.get(name))
