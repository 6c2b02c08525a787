# SPDX-License-Identifier: Apache-2.0
"""What a request brings in base64, decoded and checked: files for the guest, user data.

A path names a place in the guest, never one on this host or on the drive, where files are numbered. It
is checked all the same: the guest's tools would take it as it is. Messages name a file by its number,
since path and contents may both be somebody's secret.
"""

import base64
import binascii
import dataclasses
import posixpath
from collections.abc import Iterator, Sequence

from compute_agent.model import errors
from compute_agent.model.arguments import check_files

COUNT_LIMIT = 128
PATH_BYTES = 1024


@dataclasses.dataclass(frozen=True, repr=False)
class InjectedFile:
    """One file: where it goes in the guest, and what is in it."""

    path: str
    contents: bytes


def decode(files: Sequence[tuple[str, str]]) -> list[InjectedFile]:
    """Return ``files``, pairs of path and base64, decoded.

    :raises InvalidArguments: if there are too many, a path is not absolute, leads upwards, comes twice
        or has characters that no path has, or contents are no base64
    :raises MessageTooLarge: if they are too large together
    """
    if len(files) > COUNT_LIMIT:
        raise errors.InvalidArguments(f"{len(files)} injected files, at most {COUNT_LIMIT} are taken")
    check_files(files)
    found = [_decoded(number, *file) for number, file in enumerate(files)]
    _check_twice(found)
    return found


def _decoded(number: int, path: str, contents: str) -> InjectedFile:
    what = f"injected file {number}"
    problem = next(_problems(path), None)
    if problem is not None:
        raise errors.InvalidArguments(f"{what}: its path {problem}")
    return InjectedFile(path, from_base64(contents, f"the contents of {what}"))


def _problems(path: str) -> Iterator[str]:
    """Give what is wrong with a path in a guest."""
    if not path.startswith("/") or path.endswith("/"):
        yield "is not the absolute path of a file"
    if not is_plain(path):
        yield "has characters that a path must not have"
    elif len(path.encode()) > PATH_BYTES:
        yield f"is over {PATH_BYTES} bytes"
    if not {".", ".."}.isdisjoint(path.split("/")):
        yield "leads through . or .."


def _check_twice(files: Sequence[InjectedFile]) -> None:
    seen: dict[str, int] = {}
    for number, file in enumerate(files):
        first = seen.setdefault(posixpath.normpath("/" + file.path.strip("/")), number)
        if first != number:
            raise errors.InvalidArguments(f"the injected files {first} and {number} have the same path")


def is_plain(text: str) -> bool:
    """Return whether ``text`` is UTF-8 on one line without control characters."""
    return not any(char < " " or char == "\x7f" or "\ud800" <= char <= "\udfff" for char in text)


def from_base64(text: str, what: str) -> bytes:
    """Return the bytes behind ``text``; line breaks in it don't matter.

    :raises InvalidArguments: if it is no base64
    """
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise errors.InvalidArguments(f"{what}: not base64") from None
