# SPDX-License-Identifier: Apache-2.0
"""OpenStack's image service: where the bytes of ``glance://<id>`` are, and what it says of them.

Who the agent is, it proves to the identity service by keystoneauth1 (the extra ``glance``);
everything else is plain HTTP by :mod:`stream`, under the same limits as any other source. A
sender that gives ``X-Auth-Token`` among the image's headers acts for itself, and where
``[glance] endpoint`` is set needs no keystoneauth1 at all.

The service's own hash of an image is verified if the sender names none.
"""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from compute_agent import concurrency, steps
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.virt.images.stream import Lost, Stream
from compute_agent.virt.images.web import Call, Target

T = TypeVar("T")

TOKEN = "X-Auth-Token"
_RECORD_BYTES = 2**20
_HASHES = {"sha256": re.compile("[0-9a-f]{64}"), "sha512": re.compile("[0-9a-f]{128}")}


@dataclasses.dataclass(frozen=True)
class Told:
    """What the service says of an image. ``size``: bytes, 0 if it does not say."""

    checksum: str | None
    size: int


class _Record(msgspec.Struct):
    """Of Glance's answer, what is looked at."""

    status: str = "active"
    size: int | None = None
    os_hash_algo: str | None = None
    os_hash_value: str | None = None


class Service:
    """The image service, asked for one image.

    :param headers: the sender's
    :param call: runs a function in a native thread
    """

    def __init__(self, headers: Mapping[str, str], call: Call) -> None:
        self._headers = dict(headers)
        self._call = call
        self._own_token = TOKEN.lower() not in {name.lower() for name in headers}
        self._identity = _Identity() if CONF.glance.auth_url else None
        self._endpoint = self._find_endpoint().rstrip("/").removesuffix("/v2")

    def look_up(self, image_id: str) -> Told:
        """Return what the service says of an image.

        :raises ImageUnavailable: if it does not have it, or can't be asked
        """
        status, body = self._get(self._target(f"/v2/images/{image_id}"))
        if status == 401 and self._own_token and self._identity is not None:
            status, body = self._get(self._target(f"/v2/images/{image_id}", fresh=True))
        if status != 200:
            raise _unavailable(image_id, f"answers {status}", retryable=status >= 500 or status == 429)
        return _read(image_id, body)

    def file(self, image_id: str) -> Target:
        """Return where the image's bytes are."""
        return self._target(f"/v2/images/{image_id}/file")

    def renewed(self, image_id: str) -> Target:
        """Return the same with a fresh token."""
        return self._target(f"/v2/images/{image_id}/file", fresh=True)

    def _target(self, path: str, *, fresh: bool = False) -> Target:
        headers = dict(self._headers)
        if self._own_token and self._identity is not None:
            headers[TOKEN] = self._identity.token(fresh)
        # The endpoint is the operator's: it may be wherever it likes.
        return Target(url=self._endpoint + path, headers=headers, inner=True)

    def _find_endpoint(self) -> str:
        if CONF.glance.endpoint:
            return str(CONF.glance.endpoint)
        if self._identity is None:
            raise errors.ImageUnavailable(
                "there is no image service", retryable=False, hint="set [glance] auth_url, or endpoint"
            )
        return self._identity.endpoint()

    def _get(self, target: Target) -> tuple[int, bytes]:
        try:
            with Stream(target, {}, self._call) as received:
                status, body = received.answer().status, bytearray()
                for chunk in received.chunks():
                    body += chunk
                    if len(body) > _RECORD_BYTES:
                        raise _unavailable(target.url, "says too much", retryable=False)
                return status, bytes(body)
        except Lost as lost:
            raise lost.error from None


def _read(image_id: str, body: bytes) -> Told:
    try:
        record = msgspec.json.decode(body, type=_Record)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise _unavailable(image_id, "answers what can't be read", retryable=False) from None
    if record.status != "active":
        raise _unavailable(image_id, f"has it as {record.status[:32]}", retryable=record.status == "saving")
    form = _HASHES.get(record.os_hash_algo or "")
    value = (record.os_hash_value or "").lower()
    known = form is not None and form.fullmatch(value)
    return Told(f"{record.os_hash_algo}:{value}" if known else None, max(record.size or 0, 0))


def _unavailable(image_id: str, reason: str, *, retryable: bool) -> errors.ImageUnavailable:
    return errors.ImageUnavailable(f"{image_id}: the image service {reason}", retryable=retryable)


class _Identity:
    """The identity service, by keystoneauth1."""

    def token(self, fresh: bool) -> str:
        """Return a token; a new one if the last was not good enough."""
        session, plugin = _session()
        if fresh:
            plugin.invalidate()
        return str(_apart(lambda: session.get_token(plugin)))

    def endpoint(self) -> str:
        """Return what the catalog says."""
        session, plugin = _session()
        found = _apart(
            lambda: session.get_endpoint(
                plugin,
                service_type="image",
                interface=CONF.glance.interface,
                region_name=CONF.glance.region_name,
                skip_discovery=True,
            )
        )
        if not found:
            raise errors.ImageUnavailable(
                "the catalog names no image service", retryable=False, hint="set [glance] endpoint"
            )
        return str(found)


_sessions: dict[tuple[Any, ...], tuple[Any, Any]] = {}


def _session() -> tuple[Any, Any]:
    """Return keystoneauth1's session and plug-in; kept, with its token, until the options change."""
    wanted = CONF.glance
    key = (*(wanted[name] for name in wanted), CONF.images.ca_file)
    if key not in _sessions:
        _sessions.clear()
        _sessions[key] = _new_session()
    return _sessions[key]


def _new_session() -> tuple[Any, Any]:
    try:
        from keystoneauth1 import session
        from keystoneauth1.identity import v3
    except ImportError:
        raise errors.ImageUnavailable(
            "keystoneauth1 is not installed", retryable=False, hint="pip install 'compute-agent[glance]'"
        ) from None
    wanted = CONF.glance
    auth_url = wanted.auth_url.rstrip("/").removesuffix("/v3") + "/v3"
    if wanted.application_credential_id:
        plugin: Any = v3.ApplicationCredential(
            auth_url=auth_url,
            application_credential_id=wanted.application_credential_id,
            application_credential_secret=wanted.application_credential_secret,
        )
    else:
        plugin = v3.Password(
            auth_url=auth_url,
            username=wanted.username,
            password=wanted.password,
            user_domain_name=wanted.user_domain_name,
            project_name=wanted.project_name,
            project_domain_name=wanted.project_domain_name,
        )
    verify = wanted.ca_file or CONF.images.ca_file or True
    return session.Session(auth=plugin, verify=verify, timeout=CONF.images.connect_timeout), plugin


def _apart(function: Callable[[], T]) -> T:
    """Run ``function`` in a greenthread, so that the operation may end before it does.

    :raises ImageUnavailable: if the identity service does not do what it is asked
    """
    ended, outcome = concurrency.Event(), _Outcome()

    def run() -> None:
        with outcome.kept():
            outcome.result = function()
        ended.set()

    task = concurrency.spawn(run)
    try:
        if not steps.current().wait(ended, CONF.images.download_timeout):
            raise errors.ImageUnavailable("the identity service does not answer")
    finally:
        task.kill()
    if outcome.error is not None:
        raise outcome.error
    return outcome.result  # type: ignore[no-any-return]


class _Outcome:
    def __init__(self) -> None:
        self.result: Any = None
        self.error: errors.ComputeError | None = None

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Keep what goes wrong, typed."""
        from keystoneauth1 import exceptions

        try:
            yield
        except exceptions.HttpError as error:
            status = error.http_status
            self.error = errors.ImageUnavailable(
                f"the identity service answers {status}", retryable=status >= 500 or status == 429
            )
        except (exceptions.ClientException, OSError) as error:
            self.error = errors.ImageUnavailable(
                f"the identity service can't be asked ({type(error).__name__})", evidence=str(error)
            )
        except Exception as error:
            self.error = errors.unexpected(error)
