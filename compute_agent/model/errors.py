# SPDX-License-Identifier: Apache-2.0
"""Everything that can go wrong, one class per code.

An error is recognised by its class here and by its ``code`` on the wire, never by its
text. Each class carries what its reader needs at night: whether a retry can help, and a
hint. What is known only where it happens (the step, the evidence) is given when raised.

The classes are also what a caller of the agent gets as a remote exception.
"""

from typing import Any, ClassVar

import msgspec

EVIDENCE_LIMIT = 4096
"""Characters of evidence kept: the end of a log is what explains a failure."""


class Error(msgspec.Struct, frozen=True, kw_only=True):
    """An error as it stands in an operation's record, an event and a failed call."""

    code: str
    message: str
    step: str | None = None
    retryable: bool = False
    retry_after_s: float | None = None
    hint: str | None = None
    evidence: str | None = None


class ComputeError(Exception):
    """Base of all errors that may leave the agent.

    :param message: what happened, in one sentence
    :param step: the step that failed; the engine fills it in when it is not given
    :param retryable: overrides the class's answer to "can the same request succeed later?"
    :param retry_after_s: seconds after which a retry makes sense
    :param hint: overrides the class's advice
    :param evidence: what shows it, such as the tail of a log; the last 4096 characters are kept
    """

    code: ClassVar[str] = "Internal"
    default_retryable: ClassVar[bool] = False
    default_hint: ClassVar[str | None] = None
    by_code: ClassVar[dict[str, type["ComputeError"]]] = {}

    def __init__(
        self,
        message: str = "",
        *,
        step: str | None = None,
        retryable: bool | None = None,
        retry_after_s: float | None = None,
        hint: str | None = None,
        evidence: str | None = None,
        **_newer: Any,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.step = step
        self.retryable = self.default_retryable if retryable is None else retryable
        self.retry_after_s = retry_after_s
        self.hint = hint if hint is not None else self.default_hint
        self.evidence = evidence[-EVIDENCE_LIMIT:] if evidence else None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__name__.endswith("_Remote"):
            return  # oslo.messaging derives such a class for an error that it received
        cls.code = cls.__name__
        ComputeError.by_code[cls.__name__] = cls

    def to_error(self) -> Error:
        """Return the wire form."""
        return Error(
            code=self.code,
            message=self.message,
            step=self.step,
            retryable=self.retryable,
            retry_after_s=self.retry_after_s,
            hint=self.hint,
            evidence=self.evidence,
        )


def from_error(error: Error) -> ComputeError:
    """Return the exception for a wire error; an unknown code becomes :class:`Internal`."""
    fields = msgspec.structs.asdict(error)
    kind = ComputeError.by_code.get(fields.pop("code"), Internal)
    return kind(fields.pop("message"), **fields)


def unexpected(error: BaseException, step: str | None = None) -> "ComputeError":
    """Return what is told of an exception that nobody foresaw: its text may hold secrets, the log has it."""
    return Internal(f"an unexpected {type(error).__name__}", step=step)


# --- the request -------------------------------------------------------------------------------


class InvalidArguments(ComputeError):
    """An argument is missing, unknown, of the wrong type or out of range."""

    default_hint = "compare the arguments with the schema of the verb (compute-agentctl schema VERB)"


class UnknownVerb(ComputeError):
    """The method's name is neither a verb nor a question."""

    default_hint = "get_version lists the verbs that this agent knows"


class UnsupportedVersion(ComputeError):
    """The caller asks for an RPC version that this agent does not speak."""

    default_hint = "get_version tells the versions; upgrade the older side"


class MessageTooLarge(ComputeError):
    """A message or a reply is over its limit in bytes."""

    default_hint = "limits are in get_version; page through lists, fetch large files by URL"


class InstanceNotFound(ComputeError):
    """No such instance on this host."""

    default_hint = "list_instances tells what this host has on record, list_orphans what it has not"


class InstanceExists(ComputeError):
    """An instance with this uuid or name is here already."""

    default_hint = "destroy it first, or spawn with a new uuid"


class InvalidState(ComputeError):
    """The verb may not start from the state that the instance is in."""

    default_hint = "explain(instance_uuid) tells what may be done"


class PreconditionFailed(ComputeError):
    """The record's revision is not the one that ``if_revision`` names."""

    default_hint = "read the instance again and decide anew"


class StaleGeneration(ComputeError):
    """The request speaks for an older placement of the instance."""

    default_hint = "the scheduler has placed the instance again since; drop this request"


class OperationConflict(ComputeError):
    """The operation id was used before with other arguments."""

    default_hint = "use a new operation id for a new request"


class OperationNotFound(ComputeError):
    """No such operation: never seen, or older than the retention."""


class Expired(ComputeError):
    """``expires_at`` passed before the verb's turn came."""

    default_hint = "send it again with a later expires_at and a new operation id"


class Timeout(ComputeError):
    """The operation, or a wait inside it, passed its deadline."""

    default_retryable = True
    default_hint = "the state of the instance was read back; explain(instance_uuid) tells it"


class Cancelled(ComputeError):
    """The operation was cancelled."""


class TooLate(ComputeError):
    """The operation to cancel had ended, or had gone too far, and ended otherwise."""


class Interrupted(ComputeError):
    """A crash interrupted an operation whose effect can't be observed, so it was not repeated."""

    default_hint = "check the effect from outside, then send it again with a new id and retry_of"


class HostBusy(ComputeError):
    """More operations wait than ``[journal] max_queued``."""

    default_retryable = True
    default_hint = "try again later, or another host"


class HostDisabled(ComputeError):
    """The host takes no new guests."""

    default_hint = (
        "the reasons are in host.report; set_host_enabled lifts an operator's, "
        "host_maintenance_mode that of maintenance"
    )


class WrongHost(ComputeError):
    """The request is for another host, or the instance has moved."""


class UnsupportedOperation(ComputeError, NotImplementedError):
    """The driver, or this release, does not offer this."""

    default_hint = "get_version lists the verbs that the driver supports"


# --- images --------------------------------------------------------------------------------------


class ImageUnavailable(ComputeError):
    """The image can't be fetched or read, or its source is not allowed."""

    default_retryable = True
    default_hint = "check the url, and [images] allowed_sources"


class ImageChecksumMismatch(ComputeError):
    """The image's bytes are not the ones that the checksum names."""


class ImageUnsafe(ComputeError):
    """The image could make the host read or write what is not the guest's."""

    default_hint = "convert it to a plain qcow2 or raw file without backing or data files"


class ImageTooLarge(ComputeError):
    """The image does not fit into the flavor's root disk, or is over the agent's limits."""


# --- the host ------------------------------------------------------------------------------------


class InsufficientResources(ComputeError):
    """The host lacks the memory, processors or disk that the flavor asks for."""

    default_retryable = True


class NetworkUnavailable(ComputeError):
    """A bridge or network that a VIF names is not on this host."""

    default_hint = "create the bridge on the host, or place the instance elsewhere"


class VolumeUnavailable(ComputeError):
    """A volume can't be reached."""

    default_retryable = True


class DeviceBusy(ComputeError):
    """The guest, or another operation, holds the device."""

    default_retryable = True


class HypervisorUnavailable(ComputeError):
    """The hypervisor's service does not answer."""

    default_retryable = True
    default_hint = "systemctl status libvirtd; verbs wait for it until their deadline"


class HypervisorError(ComputeError):
    """The hypervisor refused or failed."""


class GuestAgentUnavailable(ComputeError):
    """The guest agent does not answer."""

    default_retryable = True
    default_hint = "install and start qemu-guest-agent in the guest, with hw_qemu_guest_agent=yes"


class QuiesceNotSupported(ComputeError):
    """The guest's file systems can't be frozen."""


class MigrationRefused(ComputeError):
    """A pre-check of the migration failed; nothing was changed."""


class MigrationFailed(ComputeError):
    """The migration failed; the guest runs at its source."""

    default_retryable = True


class DestinationUnreachable(ComputeError):
    """The agent at the other end of the migration does not answer."""

    default_retryable = True


class PermissionDenied(ComputeError):
    """The configuration forbids this, or the agent lacks a permission on the host."""


class DiskFull(ComputeError):
    """No room on a disk of the host."""

    default_retryable = True


class Internal(ComputeError):
    """A fault of the agent itself. Please report it with the log around it."""

    default_hint = "this is a bug: please report it with the agent's log"
