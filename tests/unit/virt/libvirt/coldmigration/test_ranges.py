# SPDX-License-Identifier: Apache-2.0
"""A file as ranges of data and of holes: whatever they are, all of it is in one of them."""

import os
import pathlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compute_agent.virt.libvirt.coldmigration import ranges

BLOCK = 4096


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "file"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    size=st.integers(0, 40 * BLOCK + 700),
    data=st.lists(st.tuples(st.integers(0, 40 * BLOCK), st.integers(1, 3 * BLOCK)), max_size=5),
    most=st.sampled_from([512, BLOCK, 5 * BLOCK]),
)
def test_every_byte_is_in_one_range_and_holes_are_empty(
    path: pathlib.Path, size: int, data: list[tuple[int, int]], most: int
) -> None:
    with path.open("wb") as file:
        for offset, length in data:
            file.seek(offset)
            file.write(b"x" * length)
        file.truncate(size)
    fd = os.open(path, os.O_RDONLY)
    try:
        found = list(ranges.all_of(fd, most, 8 * BLOCK))
        contents = b"".join(ranges.read(fd, part.offset, part.length) for part in found)
        holes = [part for part in found if not part.data]
        assert not any(any(ranges.read(fd, part.offset, part.length)) for part in holes)
    finally:
        os.close(fd)
    assert len(contents) == ranges.rounded(size)
    assert contents[:size] == path.read_bytes() and not any(contents[size:])
    assert all(part.offset % ranges.SECTOR == part.length % ranges.SECTOR == 0 for part in found)
    assert all(part.length <= most for part in found if part.data)


def test_what_is_beyond_the_end_reads_as_zeros(path: pathlib.Path) -> None:
    path.write_bytes(b"abc")
    fd = os.open(path, os.O_RDONLY)
    try:
        assert ranges.read(fd, 0, 5) == b"abc\0\0" and ranges.next_range(fd, 512, 512, 512) is None
    finally:
        os.close(fd)
