# SPDX-License-Identifier: Apache-2.0
"""A directory that images may come from, and a cache."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import subprocess
from collections.abc import Iterator

import eventlet.green.socket
import eventlet.green.ssl
import pytest

from compute_agent.conf import CONF
from compute_agent.model.image import DiskFormat, Image
from compute_agent.virt.images import web
from compute_agent.virt.images.cache import ImageCache
from compute_agent.virt.images.soundness import MARK


@dataclasses.dataclass
class Store:
    """An allowed directory with images in it, and a directory beside it that is not allowed."""

    directory: pathlib.Path
    outside: pathlib.Path

    def url(self, name: str) -> str:
        return f"file://{self.directory}/{name}"

    def put(self, name: str, contents: bytes) -> pathlib.Path:
        path = self.directory / name
        path.write_bytes(contents)
        return path

    def image(self, name: str, disk_format: str = "raw", **fields: object) -> Image:
        return Image(url=self.url(name), disk_format=DiskFormat(disk_format), **fields)  # type: ignore[arg-type]

    def make(self, name: str, disk_format: str = "qcow2", *, options: str = "", size: str = "64M") -> Image:
        """Let qemu-img make a disk with a mebibyte of data in it."""
        path = self.directory / name
        extra = ["-o", options] if options else []
        qemu("qemu-img", "create", "-q", "-f", disk_format, *extra, str(path), size)
        qemu("qemu-io", "-f", disk_format, "-c", "write -P 7 0 1M", str(path))
        return self.image(name, disk_format)


def qemu(*argv: str) -> None:
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, timeout=60)


@pytest.fixture
def store(tmp_path: pathlib.Path) -> Iterator[Store]:
    directory, outside = tmp_path / "images", tmp_path / "outside"
    directory.mkdir()
    outside.mkdir()
    CONF.set_override("allowed_sources", [f"file://{directory}/", "https://"], group="images")
    yield Store(directory, outside)
    CONF.clear_override("allowed_sources", group="images")


@pytest.fixture
def cache(tmp_path: pathlib.Path) -> Iterator[ImageCache]:
    made = ImageCache(str(tmp_path / "_base"))
    yield made
    made.close()


@pytest.fixture
def on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets of the agent belong to its hub, as in the daemon; servers stay in native threads."""
    monkeypatch.setattr(web, "socket", eventlet.green.socket)
    monkeypatch.setattr(web, "ssl", eventlet.green.ssl)


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Root reads everything: be nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def cached_files(cache: ImageCache) -> list[str]:
    directory = pathlib.Path(cache.directory)
    if not directory.is_dir():
        return []
    return sorted(path.name for path in directory.iterdir() if not path.name.startswith(MARK))
