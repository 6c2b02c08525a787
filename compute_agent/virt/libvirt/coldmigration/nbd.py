# SPDX-License-Identifier: Apache-2.0
"""A client of the Network Block Device protocol, as much of it as the sending of a disk needs.

It talks over a socket of this host to QEMU, which does the encryption and the network (see `relay`).
Written by the protocol's public description, with simple replies and one request at a time. Its calls
block: they belong into native threads, one at a time; hence the socket of C's, which no greenthread shares.
"""

import _socket
import contextlib
import errno
import struct

_MAGIC, _OPTION_MAGIC = b"NBDMAGIC", b"IHAVEOPT"
_REPLY_MAGIC = 0x3E889045565A9
_REQUEST, _REPLY = 0x25609513, 0x67446698
_HANDSHAKE_FLAGS = 0b11
"""Fixed newstyle, and no padding."""
_GO = 7
_ACK, _INFO = 1, 3
_INFO_EXPORT = 0
_READ, _WRITE, _DISCONNECT, _FLUSH, _WRITE_ZEROES = 0, 1, 2, 3, 6
_OPTION_LIMIT = 65536
MOST_BYTES = 32 * 1024 * 1024
"""That one request may carry."""
MOST_ZEROS = 1024 * 1024 * 1024


class Broken(Exception):
    """The connection is gone, or says what makes no sense: the client is of no use any more."""


class Refused(Exception):
    """The other end can't do what was asked. ``number``: why, an errno."""

    def __init__(self, number: int) -> None:
        super().__init__(errno.errorcode.get(number, str(number)))
        self.number = number


class Client:
    """One connection to one export.

    :param path: of the socket
    :param timeout_s: for which one answer may be waited
    :ivar size: of the export, in bytes
    :raises Broken: if it can't be reached
    """

    def __init__(self, path: str, timeout_s: float) -> None:
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        self._socket.settimeout(timeout_s)
        self._cookie = 0
        try:
            self._socket.connect(path)
            self.size = self._negotiate()
        except BaseException as error:
            self._socket.close()
            if isinstance(error, OSError):
                raise Broken(str(error)) from None
            raise

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes. Raises as :meth:`write`."""
        self._ask(_READ, offset, length)
        return self._take(length)

    def write(self, offset: int, data: bytes) -> None:
        """Write ``data``.

        :raises Refused: if it can't be written
        :raises Broken: if the connection is gone
        """
        self._ask(_WRITE, offset, len(data), data)

    def zero(self, offset: int, length: int) -> None:
        """Make a range read as zeros, with a hole where that can be. Raises as :meth:`write`."""
        self._ask(_WRITE_ZEROES, offset, length)

    def flush(self) -> None:
        """Have all that was written brought to the disk. Raises as :meth:`write`."""
        self._ask(_FLUSH, 0, 0)

    def close(self) -> None:
        """Say goodbye, if that can be done. May be repeated, also while a call is at work."""
        with contextlib.suppress(OSError):
            self._socket.send(struct.pack(">IHHQQI", _REQUEST, 0, _DISCONNECT, 0, 0, 0), _socket.MSG_DONTWAIT)
        with contextlib.suppress(OSError):
            self._socket.shutdown(_socket.SHUT_RDWR)
        self._socket.close()

    # --- the wire --------------------------------------------------------------------------------------

    def _negotiate(self) -> int:
        if self._take(16) != _MAGIC + _OPTION_MAGIC:
            raise Broken("not an NBD server")
        self._take(2)
        self._send(struct.pack(">I", _HANDSHAKE_FLAGS))
        self._send(_OPTION_MAGIC + struct.pack(">IIIH", _GO, 6, 0, 0))
        size: int | None = None
        while True:
            magic, _, kind, length = struct.unpack(">QIII", self._take(20))
            if magic != _REPLY_MAGIC or length > _OPTION_LIMIT:
                raise Broken("what the NBD server says makes no sense")
            data = self._take(length)
            if kind == _ACK and size is not None:
                return size
            if kind != _INFO:
                raise Broken(f"the NBD server does not offer the export ({kind:#x})")
            if length >= 10 and data[:2] == struct.pack(">H", _INFO_EXPORT):
                size = int.from_bytes(data[2:10], "big")

    def _ask(self, command: int, offset: int, length: int, data: bytes = b"") -> None:
        self._cookie += 1
        self._send(struct.pack(">IHHQQI", _REQUEST, 0, command, self._cookie, offset, length))
        if data:
            self._send(data)
        magic, number, cookie = struct.unpack(">IIQ", self._take(16))
        if magic != _REPLY or cookie != self._cookie:
            raise Broken("what the NBD server says makes no sense")
        if number:
            raise Refused(number)

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise Broken(str(error)) from None

    def _take(self, length: int) -> bytes:
        taken = bytearray(length)
        view = memoryview(taken)
        while view:
            try:
                count = self._socket.recv_into(view)
            except OSError as error:
                raise Broken(str(error)) from None
            if not count:
                raise Broken("the connection was closed")
            view = view[count:]
        return bytes(taken)
