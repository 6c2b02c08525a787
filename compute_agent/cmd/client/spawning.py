# SPDX-License-Identifier: Apache-2.0
"""For people who spawn: an instance's description from a few options instead of a JSON file."""

import argparse
import base64
import random
import uuid
from collections.abc import Callable
from typing import Any

from compute_agent.cmd.client import values
from compute_agent.model.image import DiskFormat

PREFIX = "instance:"
SUFFIXES = {f".{kind.value}": kind.value for kind in DiskFormat} | {".img": "raw"}
OUI = (0x52, 0x54, 0x00)
"""The beginning of MAC addresses that QEMU's guests have by custom."""


def add(parser: argparse.ArgumentParser) -> None:
    """Give ``spawn`` its short form. Each option sets or replaces a field of ``--instance``."""
    group = parser.add_argument_group("the instance, in short (instead of --instance, or on top of it)")

    def option(name: str, text: str, **details: Any) -> None:
        if details.get("action") != "store_true" and "choices" not in details:
            details.setdefault("metavar", "TEXT")
        group.add_argument(f"--{name}", dest=f"{PREFIX}{name}", help=text, default=None, **details)

    option("uuid", "its id (default: a new one)")
    option("name", "its name at the hypervisor")
    option("display-name", "the owner's name for it")
    option("hostname", "the guest's own name")
    option("image", "where the root disk comes from", metavar="URL")
    option("disk-format", "of the image (default: by its name)", choices=[kind.value for kind in DiskFormat])
    option("checksum", "of the image", metavar="sha256:…")
    option("kernel", "a kernel to boot directly", metavar="URL")
    option("ramdisk", "the kernel's initial ramdisk", metavar="URL")
    option("cmdline", "the kernel's command line")
    option("vcpus", "virtual processors (default: 1)", type=int, metavar="N")
    option("memory-mb", "memory in MiB (default: 512)", type=int, metavar="N")
    option("root-gb", "root disk in GiB (default: as large as the image)", type=int, metavar="N")
    option("bridge", "a network interface on this bridge of the host", action="append", metavar="NAME[,MAC]")
    option("metadata", "a key of its metadata", action="append", metavar="KEY=VALUE")
    option("ssh-key", "a public key", action="append", type=values.contents, metavar="@FILE")
    option("user-data", "for the first boot, as it is", type=values.contents, metavar="@FILE")
    option("start-paused", "start it with its processors held", action="store_true")


def instance(chosen: argparse.Namespace, described: Any) -> Any:
    """Return the instance's description: ``described``, changed by the options that were given."""
    short = {
        name.removeprefix(PREFIX).replace("-", "_"): value
        for name, value in vars(chosen).items()
        if name.startswith(PREFIX) and value is not None
    }
    if described is not None and not isinstance(described, dict):
        return described  # the check of its type says what is wrong
    made = {"uuid": str(uuid.uuid4()), **(described or {})}
    for name, value in short.items():
        PLACES.get(name, _as_it_is(name))(made, value)
    if described is None:
        made["flavor"] = {"vcpus": 1, "memory_mb": 512, **made.get("flavor", {})}
    return made


def missing(chosen: argparse.Namespace, described: Any) -> bool:
    """Return whether nothing says what the instance is to boot."""
    given = (getattr(chosen, f"{PREFIX}{name}", None) for name in ("image", "kernel"))
    return described is None and not any(given)


Place = Callable[[dict[str, Any], Any], None]


def _as_it_is(name: str) -> Place:
    def place(made: dict[str, Any], value: Any) -> None:
        made[name] = value

    return place


def _inside(outer: str, name: str) -> Place:
    def place(made: dict[str, Any], value: Any) -> None:
        made[outer] = {**(made.get(outer) or {}), name: value}

    return place


def _image(made: dict[str, Any], url: str) -> None:
    kind = next((kind for suffix, kind in SUFFIXES.items() if url.lower().endswith(suffix)), None)
    made["image"] = {"url": url, **({"disk_format": kind} if kind else {})}


def _bridges(made: dict[str, Any], given: list[str]) -> None:
    made["network_info"] = [*made.get("network_info", []), *(_vif(one) for one in given)]


def _vif(given: str) -> dict[str, Any]:
    bridge, _, address = given.partition(",")
    return {"id": str(uuid.uuid4()), "type": "bridge", "bridge": bridge, "address": address or _address()}


def _address() -> str:
    return ":".join(f"{part:02x}" for part in (*OUI, *random.randbytes(3)))


def _metadata(made: dict[str, Any], given: list[str]) -> None:
    pairs = dict(item.partition("=")[::2] for item in given)
    made["metadata"] = {**made.get("metadata", {}), **pairs}


def _user_data(made: dict[str, Any], text: str) -> None:
    made["user_data"] = base64.b64encode(text.encode()).decode()


def _keys(made: dict[str, Any], given: list[str]) -> None:
    made["ssh_keys"] = [*made.get("ssh_keys", []), *(key.strip() for key in given)]


PLACES: dict[str, Place] = {
    "image": _image,
    "disk_format": _inside("image", "disk_format"),
    "checksum": _inside("image", "checksum"),
    "vcpus": _inside("flavor", "vcpus"),
    "memory_mb": _inside("flavor", "memory_mb"),
    "root_gb": _inside("flavor", "root_gb"),
    "bridge": _bridges,
    "metadata": _metadata,
    "user_data": _user_data,
    "ssh_key": _keys,
}
"""Where a short option goes; others are fields of the instance themselves."""
