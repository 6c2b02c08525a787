# SPDX-License-Identifier: Apache-2.0
"""A config drive as ISO 9660, with Rock Ridge for Linux guests and Joliet for Windows guests.

pycdlib writes the time of day into every record; it is taken out again, so that the same files give the
same bytes. Where the times are is laid down by ECMA-119 and SUSP, not by pycdlib.
"""

import io
import re
from collections.abc import Iterator, Mapping

import pycdlib

SECTOR = 2048
_FIRST_DESCRIPTOR = 16
_PRIMARY, _SUPPLEMENTARY = 1, 2
_ROOT_RECORD = 156
_DATES = slice(813, 881)
"""Of a volume descriptor: created, modified, expires, effective; 17 bytes each."""
_NO_DATE = (b"1980010100000000\0" * 2) + (b"0000000000000000\0" * 2)
_NO_SHORT_DATE = bytes([80, 1, 1, 0, 0, 0, 0])
_IS_DIRECTORY = 2
_DIRECTORY_MODE, _FILE_MODE = 0o040555, 0o100444


def build(files: Mapping[str, bytes], label: str) -> bytes:
    """Return an ISO 9660 file system with ``files``, named ``label``."""
    made = pycdlib.PyCdlib()
    made.new(interchange_level=3, joliet=3, rock_ridge="1.09", sys_ident="LINUX", vol_ident=label)
    known = {""}
    for path, contents in sorted(files.items()):
        for directory in _above(path):
            if directory not in known:
                known.add(directory)
                made.add_directory(
                    _plain_path(directory, file=False),
                    rr_name=_last(directory),
                    joliet_path=f"/{directory}",
                    file_mode=_DIRECTORY_MODE,
                )
        made.add_fp(
            io.BytesIO(contents),
            len(contents),
            _plain_path(path, file=True),
            rr_name=_last(path),
            joliet_path=f"/{path}",
            file_mode=_FILE_MODE,
        )
    written = io.BytesIO()
    made.write_fp(written)
    made.close()
    data = bytearray(written.getbuffer())
    _take_out_times(data)
    return bytes(data)


def _above(path: str) -> Iterator[str]:
    parts = path.split("/")
    return ("/".join(parts[:depth]) for depth in range(1, len(parts)))


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _plain_path(path: str, *, file: bool) -> str:
    """Return a path in plain ISO 9660, for readers that know neither Rock Ridge nor Joliet."""
    *above, last = path.split("/")
    plain = "".join(f"/{_plain(part)}" for part in above)
    return f"{plain}/{_plain(last, dot=True)};1" if file else f"{plain}/{_plain(last)}"


def _plain(name: str, *, dot: bool = False) -> str:
    """Return a name in the characters that plain ISO 9660 has."""
    stem, _, suffix = name.rpartition(".") if "." in name else (name, "", "")
    plain = re.sub("[^A-Z0-9_]", "_", stem.upper())
    return f"{plain}.{re.sub('[^A-Z0-9_]', '_', suffix.upper())}" if dot else plain + suffix


# --- times -------------------------------------------------------------------------------------------


def _take_out_times(data: bytearray) -> None:
    for start in _descriptors(data):
        dates = slice(start + _DATES.start, start + _DATES.stop)
        data[dates] = _NO_DATE
        root = start + _ROOT_RECORD
        _settle(data, root)
        _settle_directory(data, root, set())


def _descriptors(data: bytearray) -> Iterator[int]:
    """Give where the volume descriptors that have directories begin: ISO 9660's own and Joliet's."""
    for start in range(_FIRST_DESCRIPTOR * SECTOR, len(data), SECTOR):
        if data[start + 1 : start + 6] != b"CD001" or data[start] == 255:
            return
        if data[start] in (_PRIMARY, _SUPPLEMENTARY):
            yield start


def _settle_directory(data: bytearray, record: int, seen: set[int]) -> None:
    place, size = _extent(data, record)
    if place in seen:
        return
    seen.add(place)
    for entry in _records(data, place, size):
        _settle(data, entry)
        if data[entry + 25] & _IS_DIRECTORY:
            _settle_directory(data, entry, seen)


def _extent(data: bytearray, record: int) -> tuple[int, int]:
    place = int.from_bytes(data[record + 2 : record + 6], "little") * SECTOR
    return place, int.from_bytes(data[record + 10 : record + 14], "little")


def _records(data: bytearray, place: int, size: int) -> Iterator[int]:
    """Give where a directory's records begin; none goes over the end of a sector."""
    at = place
    while at < place + size:
        length = data[at]
        if length:
            yield at
            at += length
        else:
            at += SECTOR - at % SECTOR


def _settle(data: bytearray, record: int) -> None:
    """Take the time out of a directory's record, and out of its Rock Ridge entries."""
    data[record + 18 : record + 25] = _NO_SHORT_DATE
    name_end = record + 33 + data[record + 32]
    at, end = name_end + (name_end - record) % 2, record + data[record]
    _settle_entries(data, at, end)


def _settle_entries(data: bytearray, at: int, end: int) -> None:
    while at + 4 <= end and data[at + 2] >= 4:
        kind, length = bytes(data[at : at + 2]), data[at + 2]
        if kind == b"TF":
            for stamp in range(at + 5, at + length, len(_NO_SHORT_DATE)):
                data[stamp : stamp + len(_NO_SHORT_DATE)] = _NO_SHORT_DATE
        elif kind == b"CE":
            numbers = [
                int.from_bytes(data[at + offset : at + offset + 4], "little") for offset in (4, 12, 20)
            ]
            place = numbers[0] * SECTOR + numbers[1]
            _settle_entries(data, place, place + numbers[2])
        at += length


# --- reading -----------------------------------------------------------------------------------------


def read(data: bytes) -> dict[str, bytes]:
    """Return the files of an ISO 9660 file system, by their Rock Ridge paths.

    :raises ValueError: if it can't be read
    """
    found = {}
    opened = pycdlib.PyCdlib()
    try:
        opened.open_fp(io.BytesIO(data))
        for directory, _, names in opened.walk(rr_path="/"):
            for name in names:
                path = f"{directory.rstrip('/')}/{name}"
                contents = io.BytesIO()
                opened.get_file_from_iso_fp(contents, rr_path=path)
                found[path.lstrip("/")] = contents.getvalue()
        opened.close()
    except Exception as error:  # pycdlib trips over a damaged one in many ways
        raise ValueError(f"not an ISO 9660 file system: {error}") from None
    return found
