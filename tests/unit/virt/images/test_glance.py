# SPDX-License-Identifier: Apache-2.0
"""Images of OpenStack's image service: under the agent's name or the sender's, verified by its own hash."""

from __future__ import annotations

import hashlib
import pathlib
import sys
from collections.abc import Callable, Iterator

import pytest

from compute_agent import steps
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.image import Image
from compute_agent.virt.images import download
from compute_agent.virt.images.cache import ImageCache
from tests.rig.imageservice import PASSWORD, ImageService
from tests.rig.webserver import ranged, send
from tests.unit.virt.images import hostile
from tests.unit.virt.images.conftest import cached_files

CONTENTS = hostile.boot_sector(100_000)
Configure = Callable[..., None]


@pytest.fixture
def configure() -> Iterator[Configure]:
    """Set options of [glance] for the test."""
    changed: set[str] = set()

    def change(**values: object) -> None:
        for name, value in values.items():
            changed.add(name)
            CONF.set_override(name, value, group="glance")

    yield change
    for name in changed:
        CONF.clear_override(name, group="glance")


@pytest.fixture
def service(
    on_the_hub: None, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ImageService]:
    monkeypatch.setattr(download, "RETRY_S", 0.0)
    CONF.set_override("allowed_sources", ["glance://"], group="images")
    with ImageService() as made:
        configure(
            auth_url=f"{made.root}/identity", username="agent", password=PASSWORD, project_name="service"
        )
        yield made
    CONF.clear_override("allowed_sources", group="images")


def image(image_id: str, **fields: object) -> Image:
    return Image(url=f"glance://{image_id}", id=image_id, **fields)  # type: ignore[arg-type]


def fetched(cache: ImageCache, wanted: Image) -> bytes:
    return pathlib.Path(cache.ensure(wanted).path).read_bytes()


def refused(cache: ImageCache, wanted: Image) -> errors.ComputeError:
    with pytest.raises(errors.ComputeError) as caught:
        cache.ensure(wanted)
    assert cached_files(cache) == []
    return caught.value


def test_an_image_comes_from_the_service_that_the_catalog_names(
    service: ImageService, cache: ImageCache
) -> None:
    image_id = service.put(CONTENTS)
    assert fetched(cache, image(image_id)) == CONTENTS
    assert service.logins == 1
    assert fetched(cache, image(image_id)) == CONTENTS
    assert service.paths.count(f"/image/v2/images/{image_id}/file") == 1


def test_a_sender_with_a_token_acts_for_itself(
    service: ImageService, cache: ImageCache, configure: Configure
) -> None:
    configure(auth_url=None, endpoint=f"{service.root}/image/v2/")
    service.tokens.add("the sender's")
    image_id = service.put(CONTENTS)
    assert fetched(cache, image(image_id, headers={"X-Auth-Token": "the sender's"})) == CONTENTS
    assert service.logins == 0


def test_a_token_that_has_run_out_is_renewed(service: ImageService, cache: ImageCache) -> None:
    fetched(cache, image(service.put(CONTENTS)))
    service.tokens.clear()
    assert fetched(cache, image(service.put(CONTENTS[::-1]))) == CONTENTS[::-1]
    assert service.logins == 2


def test_a_token_that_runs_out_before_the_file_is_asked_for_is_renewed(
    service: ImageService, cache: ImageCache
) -> None:
    image_id = service.put(CONTENTS)
    whole = service.answers[f"/image/v2/images/{image_id}/file"]
    assert callable(whole)
    service.answers[f"/image/v2/images/{image_id}/file"] = [send(b"", status=401), whole]
    assert fetched(cache, image(image_id)) == CONTENTS
    assert service.logins == 2


def test_a_download_that_breaks_off_goes_on_from_there(service: ImageService, cache: ImageCache) -> None:
    image_id = service.put(CONTENTS)
    service.answers[f"/image/v2/images/{image_id}/file"] = [
        ranged(CONTENTS, stop_after=1000),
        ranged(CONTENTS),
    ]
    assert fetched(cache, image(image_id)) == CONTENTS
    assert service.requests[-1][1]["Range"] == "bytes=1000-"


def test_the_hash_that_the_service_names_is_verified(service: ImageService, cache: ImageCache) -> None:
    image_id = service.put(CONTENTS, os_hash_value=hashlib.sha512(b"other").hexdigest())
    assert isinstance(refused(cache, image(image_id)), errors.ImageChecksumMismatch)


def test_the_senders_checksum_comes_first(service: ImageService, cache: ImageCache) -> None:
    image_id = service.put(CONTENTS)
    wrong = f"sha256:{hashlib.sha256(b'other').hexdigest()}"
    assert isinstance(refused(cache, image(image_id, checksum=wrong)), errors.ImageChecksumMismatch)


def test_the_size_that_the_service_names_is_verified(service: ImageService, cache: ImageCache) -> None:
    image_id = service.put(CONTENTS, size=len(CONTENTS) + 1)
    assert isinstance(refused(cache, image(image_id)), errors.ImageUnavailable)


@pytest.mark.parametrize(("status", "retryable"), [("queued", False), ("saving", True), ("deleted", False)])
def test_an_image_that_is_not_active_is_unavailable(
    status: str, retryable: bool, service: ImageService, cache: ImageCache
) -> None:
    error = refused(cache, image(service.put(CONTENTS, status=status)))
    assert (type(error), error.retryable) == (errors.ImageUnavailable, retryable)


def test_an_image_that_is_not_there_is_unavailable(service: ImageService, cache: ImageCache) -> None:
    error = refused(cache, image("no-such-image"))
    assert (type(error), error.retryable) == (errors.ImageUnavailable, False)


def test_a_service_that_answers_nonsense_is_told(service: ImageService, cache: ImageCache) -> None:
    service.answers["/image/v2/images/x"] = send(b"<html>")
    assert isinstance(refused(cache, image("x")), errors.ImageUnavailable)


def test_a_wrong_password_is_told_and_not_shown(
    service: ImageService, cache: ImageCache, configure: Configure
) -> None:
    configure(password="another word")
    error = refused(cache, image(service.put(CONTENTS)))
    assert (type(error), error.retryable) == (errors.ImageUnavailable, False)
    assert "another word" not in f"{error.message} {error.evidence}"


def test_without_an_image_service_glance_is_unavailable(
    service: ImageService, cache: ImageCache, configure: Configure
) -> None:
    configure(auth_url=None)
    assert "there is no image service" in refused(cache, image("x")).message


def test_without_keystoneauth1_that_is_said(
    service: ImageService, cache: ImageCache, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(username="somebody else")
    monkeypatch.setitem(sys.modules, "keystoneauth1", None)
    error = refused(cache, image("x"))
    assert "glance" in (error.hint or "")


def test_glance_has_to_be_allowed(service: ImageService, cache: ImageCache) -> None:
    CONF.set_override("allowed_sources", ["https://"], group="images")
    assert "allowed_sources" in refused(cache, image(service.put(CONTENTS))).message
    assert service.requests == []


def test_a_service_that_is_silent_ends_with_the_cancellation(
    service: ImageService, cache: ImageCache
) -> None:
    service.answers["/image/v2/images/x"] = service.fall_silent(b"{", 1000)
    work = steps.Work("one")
    work.cancel()
    with steps.working(work), pytest.raises(errors.Cancelled):
        cache.ensure(image("x"))
