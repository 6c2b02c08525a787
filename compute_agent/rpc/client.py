# SPDX-License-Identifier: Apache-2.0
"""What a scheduler calls: one method per verb and question of the agent on a host.

It runs on whatever threads its caller has. Arguments are checked against the verb's type before
they are sent. Neither the agent's queue nor its exchange is declared here, so it does not matter
which of oslo.messaging's options the caller's process uses, and a host whose queue does not exist
is an error at once. That it exists does not prove that the agent lives: alive is who reported
within three report intervals.
"""

import inspect
import itertools
import random
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

import msgspec
import oslo_messaging

from compute_agent.model import decode, errors
from compute_agent.model.arguments import VERBS
from compute_agent.model.questions import QUESTIONS
from compute_agent.rpc import envelope
from compute_agent.rpc.link import LOST, Replies
from compute_agent.rpc.names import EXCHANGE, queue_of
from compute_agent.rpc.sender import Sender, Unroutable

ENDED = ("succeeded", "failed", "cancelled")
FIRST_POLL_S, LONGEST_POLL_S = 0.05, 2.0
UNKNOWN_PATIENCE_S = 5.0
"""For how long an operation may be unknown to its host after it was cast, in seconds."""
GAP = "gap"


class ClientError(Exception):
    """Base of what goes wrong on the way; what the agent answers is a ``ComputeError``."""


class HostNotFound(ClientError):
    """The host has no queue: no agent of that name ever consumed here."""


class BrokerUnavailable(ClientError):
    """The broker could not be reached, or did not confirm in time. A cast may have arrived."""


class NoAnswer(ClientError, TimeoutError):
    """Nothing came back in time. What was asked for may have been done."""


class NotEnded(ClientError, TimeoutError):
    """The operation had not ended in time.

    :ivar record: as it was last heard of; None if it was not
    """

    def __init__(self, message: str, record: dict[str, Any] | None) -> None:
        super().__init__(message)
        self.record = record


class ComputeAPI:
    """The agent on one host.

    ``api.spawn(instance={...})`` casts and returns the operation's id;
    ``api.get_instance(instance_uuid=...)`` asks and returns the answer. So for every verb and every
    question; their arguments are the interface's. ``api.wait(operation_id)`` follows an operation to
    its end.

    All objects with the same transport share one connection for sending. Thread-safe.

    :param transport: from :func:`compute_agent.rpc.create_transport`, or any RPC transport of
        oslo.messaging's rabbit driver
    :param host: the agent's ``[DEFAULT] host``
    :param timeout: seconds to wait for the broker and for an answer
    :param context: sent with every request: ``request_id``, ``project_id``, ``user_id`` and ``x_*``
        come back with every event
    """

    def __init__(
        self,
        transport: Any,
        host: str,
        *,
        exchange: str = EXCHANGE,
        timeout: float = 60.0,
        context: Mapping[str, Any] | None = None,
    ) -> None:
        self.host = host
        self.exchange = exchange
        self.timeout = timeout
        self.context = dict(context or {})
        self._transport = transport
        self._sender = _shared_sender(transport)
        self._replies = Replies(transport)

    if TYPE_CHECKING:
        # The methods of verbs and questions are made from their tables, below.
        def __getattr__(self, name: str) -> Callable[..., Any]: ...

    def on(self, host: str) -> "ComputeAPI":
        """Return the same for another host."""
        return ComputeAPI(
            self._transport, host, exchange=self.exchange, timeout=self.timeout, context=self.context
        )

    def within(self, context: Mapping[str, Any]) -> "ComputeAPI":
        """Return the same with another context."""
        return ComputeAPI(
            self._transport, self.host, exchange=self.exchange, timeout=self.timeout, context=context
        )

    def close(self) -> None:
        """Disconnect all objects of this transport."""
        with _senders_lock:
            _senders.pop(self._transport, None)
        self._sender.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def cast(self, verb: str, /, **arguments: Any) -> str:
        """Send a verb; it is done some time after the broker has it.

        :return: the ``operation_id``, made here unless it is given
        :raises UnknownVerb, InvalidArguments: before anything is sent
        :raises HostNotFound: if the host has no queue
        :raises BrokerUnavailable: if it was not confirmed; sending it again with the same id does no harm
        """
        arguments = _with_id(arguments)
        request = envelope.request(verb, _checked(verb, VERBS, arguments), self.context)
        self._send(request, time.monotonic() + self.timeout)
        return str(arguments["operation_id"])

    def call(self, verb: str, /, **arguments: Any) -> dict[str, Any]:
        """Send a verb and return the operation's record once it is in the agent's journal.

        :raises UnknownVerb, InvalidArguments: before anything is sent
        :raises ComputeError: as the agent answers
        :raises HostNotFound, BrokerUnavailable, NoAnswer: see there
        """
        answer = self._request(verb, _checked(verb, VERBS, _with_id(arguments)), self.timeout)
        return dict(answer)

    def ask(self, question: str, /, **arguments: Any) -> dict[str, Any]:
        """Ask and return the answer. Raises as :meth:`call` does."""
        return dict(self._request(question, _checked(question, QUESTIONS, arguments), self.timeout))

    def wait(
        self,
        operation_id: str,
        timeout: float | None = None,
        on_progress: Callable[[dict[str, Any]], object] | None = None,
    ) -> dict[str, Any]:
        """Wait for the end of an operation and return its record, whichever end it is.

        The agent may restart meanwhile.

        :param timeout: in seconds; None for as long as it takes
        :param on_progress: gets the record whenever it was read anew
        :raises NotEnded: if it had not ended by then
        :raises OperationNotFound: if the host does not know it
        :raises HostNotFound: if the host has no queue
        """
        began = time.monotonic()
        record: dict[str, Any] | None = None
        for pause in _pauses():
            left = self.timeout if timeout is None else began + timeout - time.monotonic()
            record = self._look(operation_id, min(max(left, FIRST_POLL_S), self.timeout), began) or record
            if record is not None and on_progress is not None:
                on_progress(record)
            if record is not None and record["state"] in ENDED:
                return record
            if timeout is not None and time.monotonic() - began + pause > timeout:
                break
            time.sleep(pause)
        raise NotEnded(f"operation {operation_id} has not ended after {timeout} s", record)

    def events(
        self,
        epoch: str | None = None,
        since: int = 0,
        *,
        types: list[str] | None = None,
        instance_uuid: str | None = None,
        follow: bool = False,
    ) -> Iterator[dict[str, Any]]:
        """Yield the events after ``since`` of ``epoch``, oldest first, without taking them from anyone.

        When the agent can't tell what came after ``since`` (too old, or its state was lost), the last
        thing yielded is ``{"type": "gap", "reason": …}``: ask ``get_snapshot`` and go on from there.

        :param epoch: None for the one that is
        :param follow: wait for more at the end, for ever
        """
        pauses = _pauses()
        chosen = _given(types=types, instance_uuid=instance_uuid)
        while True:
            page = self.ask("get_events", since=since, **chosen, **_given(epoch=epoch))
            yield from page["events"]
            if page["gap"] is not None:
                yield {"type": GAP, **page["gap"]}
                return
            epoch, caught_up = page["as_of"]["epoch"], not page["events"]
            since = page["next_since"]
            if not caught_up:
                pauses = _pauses()
            elif not follow:
                return
            else:
                time.sleep(next(pauses))

    def _look(self, operation_id: str, timeout: float, began: float) -> dict[str, Any] | None:
        try:
            return dict(self._request("get_operation", {"operation_id": operation_id}, timeout))
        except (NoAnswer, BrokerUnavailable):
            return None
        except errors.OperationNotFound:
            if time.monotonic() - began > UNKNOWN_PATIENCE_S:
                raise
            return None

    def _request(self, method: str, args: dict[str, Any], timeout: float) -> Any:
        deadline = time.monotonic() + timeout
        msg_id = envelope.fresh_id()
        reply_q = self._reply_queue(deadline)
        with self._replies.expected(msg_id):
            message = envelope.request(
                method, args, self.context, _msg_id=msg_id, _reply_q=reply_q, _timeout=None
            )
            self._send(message, deadline)
            try:
                answer = self._replies.wait(msg_id, max(deadline - time.monotonic(), 0.001))
            except oslo_messaging.MessagingTimeout:
                raise NoAnswer(f"{self.host} did not answer {method} within {timeout:.1f} s") from None
        if isinstance(answer, Exception):
            raise _typed(answer)
        return answer

    def _reply_queue(self, deadline: float) -> str:
        # The library would wait for ever for a broker that is away.
        try:
            self._sender.connect(deadline - time.monotonic())
        except LOST as error:
            raise BrokerUnavailable(f"{type(error).__name__}: {error}") from error
        return self._replies.queue()

    def _send(self, message: dict[str, Any], deadline: float) -> None:
        try:
            self._sender.send_within(
                deadline - time.monotonic(),
                envelope.wrap(message),
                exchange=self.exchange,
                routing_key=queue_of(self.host),
                mandatory=True,
            )
        except Unroutable as error:
            raise HostNotFound(f"no agent serves host {self.host!r}: {error}") from error
        except LOST as error:
            raise BrokerUnavailable(f"{type(error).__name__}: {error}") from error


_senders: "weakref.WeakKeyDictionary[Any, Sender]" = weakref.WeakKeyDictionary()
_senders_lock = threading.Lock()


def _shared_sender(transport: Any) -> Sender:
    with _senders_lock:
        if transport not in _senders:
            _senders[transport] = Sender(transport)
        return _senders[transport]


def _with_id(arguments: dict[str, Any]) -> dict[str, Any]:
    return {**arguments, "operation_id": arguments.get("operation_id") or str(uuid.uuid4())}


def _checked(name: str, table: Mapping[str, type[Any]], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments as plain data, if they fit the type of ``name``."""
    if name not in table:
        raise errors.UnknownVerb(f"unknown: {name}")
    plain: dict[str, Any] = msgspec.to_builtins(dict(arguments))
    typed = decode.arguments(plain, table[name])
    instance = getattr(typed, "instance", None)
    if instance is not None:
        instance.check()
    return plain


def _given(**arguments: Any) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if value is not None}


def _pauses() -> Iterator[float]:
    """Yield growing pauses with jitter, in seconds, for ever."""
    for number in itertools.count():
        yield min(FIRST_POLL_S * 1.5 ** min(number, 20), LONGEST_POLL_S) * random.uniform(0.8, 1.0)


def _typed(error: Exception) -> Exception:
    """Return a remote error as the plain class of ours, without the library's wrapping."""
    if isinstance(error, errors.ComputeError):
        plain = next(kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
        fields = msgspec.structs.asdict(errors.ComputeError.to_error(error)) | {"code": plain.__name__}
        return errors.from_error(errors.Error(**fields))
    if isinstance(error, oslo_messaging.RemoteError) and error.exc_type in errors.ComputeError.by_code:
        return errors.ComputeError.by_code[error.exc_type](str(error.value))
    return error


def _method(name: str, kind: type[Any], way: Callable[..., Any], purpose: str) -> Callable[..., Any]:
    def method(self: ComputeAPI, **arguments: Any) -> Any:
        return way(self, name, **arguments)

    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    parameters = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)]
    for field in sorted(fields.values(), key=lambda field: not field.required):
        default = inspect.Parameter.empty if field.required else field.default
        default = None if default is msgspec.NODEFAULT else default
        parameters.append(inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default))
    method.__name__ = name
    method.__qualname__ = f"ComputeAPI.{name}"
    method.__doc__ = purpose.format(name=name)
    method.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return method


def _add_methods() -> None:
    casts = "Cast ``{name}`` and return the operation's id. See :meth:`ComputeAPI.cast`."
    asks = "Ask ``{name}`` and return the answer. See :meth:`ComputeAPI.ask`."
    for table, way, purpose in ((VERBS, ComputeAPI.cast, casts), (QUESTIONS, ComputeAPI.ask, asks)):
        for name, kind in table.items():
            if hasattr(ComputeAPI, name):
                raise TypeError(f"{name} is both a verb or question and a method of ComputeAPI")
            setattr(ComputeAPI, name, _method(name, kind, way, purpose))


_add_methods()
