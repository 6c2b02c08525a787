# SPDX-License-Identifier: Apache-2.0
"""A small identity service and image service, as OpenStack's answer: tokens, a catalog, records, files."""

from __future__ import annotations

import hashlib
import json
import uuid
from typing import Any

from tests.rig.webserver import Handler, WebServer, ranged

PASSWORD = "a password of the image service"


class ImageService(WebServer):
    """Both on one port: the identity service below ``/identity/v3``, the image service below ``/image``.

    :ivar tokens: those that are good; empty it, and the next request is answered with 401
    """

    def __init__(self) -> None:
        super().__init__()
        self.tokens: set[str] = set()
        self.logins = 0
        self.answers["/identity/v3/auth/tokens"] = self._login

    def put(self, contents: bytes, **record: Any) -> str:
        """Keep an image; return its id."""
        image_id = str(uuid.uuid4())
        known = {
            "id": image_id,
            "status": "active",
            "size": len(contents),
            "os_hash_algo": "sha512",
            "os_hash_value": hashlib.sha512(contents).hexdigest(),
            "checksum": hashlib.md5(contents, usedforsecurity=False).hexdigest(),
            "visibility": "public",
        }
        body = json.dumps(known | record).encode()
        self.answers[f"/image/v2/images/{image_id}"] = self._guarded(body)
        self.answers[f"/image/v2/images/{image_id}/file"] = self._guarded(contents)
        return image_id

    def _guarded(self, body: bytes) -> Any:
        def answer(handler: Handler) -> None:
            if handler.headers.get("X-Auth-Token") in self.tokens:
                ranged(body)(handler)
            else:
                _say(handler, 401, {})

        return answer

    def _login(self, handler: Handler) -> None:
        wanted = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        if wanted["auth"]["identity"]["password"]["user"]["password"] != PASSWORD:
            _say(handler, 401, {"error": {"code": 401, "message": "no"}})
            return
        self.logins += 1
        token = f"token-{uuid.uuid4().hex}"
        self.tokens.add(token)
        endpoints = [
            {"interface": kind, "region": "one", "region_id": "one", "id": kind, "url": f"{self.root}/image"}
            for kind in ("internal", "public")
        ]
        catalog = [{"type": "image", "name": "glance", "id": "image", "endpoints": endpoints}]
        told = {
            "methods": ["password"],
            "expires_at": "2099-01-01T00:00:00.000000Z",
            "issued_at": "2026-01-01T00:00:00.000000Z",
            "user": {"id": "u", "name": "agent", "domain": {"id": "default", "name": "Default"}},
            "project": {"id": "p", "name": "service", "domain": {"id": "default", "name": "Default"}},
            "roles": [],
            "catalog": catalog,
        }
        _say(handler, 201, {"token": told}, {"X-Subject-Token": token})


def _say(handler: Handler, status: int, what: Any, headers: dict[str, str] | None = None) -> None:
    body = json.dumps(what).encode()
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), "Content-Type": "application/json"}.items():
        handler.send_header(name, value)
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)
