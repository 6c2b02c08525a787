# SPDX-License-Identifier: Apache-2.0
"""A very small assembler for 16-bit x86 code, enough for the boot sectors of `bootsector`.

It exists so that the guests need no assembler on the machine. Invariant: every label used is defined
once, and short jumps reach their label; both are checked when the code is assembled.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class _Fixup:
    position: int
    label: str
    width: int
    relative: bool


class Code:
    """Machine code that is put together instruction by instruction, loaded at `origin`."""

    def __init__(self, origin: int = 0x7C00) -> None:
        self._origin = origin
        self._bytes = bytearray()
        self._labels: dict[str, int] = {}
        self._fixups: list[_Fixup] = []

    def raw(self, *values: int) -> Code:
        """Append bytes as they are."""
        self._bytes += bytes(values)
        return self

    def data(self, value: bytes) -> Code:
        """Append a string of bytes."""
        self._bytes += value
        return self

    def label(self, name: str) -> Code:
        """Name the present position."""
        if name in self._labels:
            raise ValueError(f"label {name!r} is defined twice")
        self._labels[name] = len(self._bytes)
        return self

    def _word(self, value: int) -> Code:
        return self.raw(value & 0xFF, value >> 8 & 0xFF)

    def _reference(self, label: str, width: int, relative: bool) -> Code:
        self._fixups.append(_Fixup(len(self._bytes), label, width, relative))
        return self.raw(*(0 for _ in range(width)))

    # Moves of constants.
    def mov_ax(self, value: int) -> Code:
        return self.raw(0xB8)._word(value)

    def mov_al(self, value: int) -> Code:
        return self.raw(0xB0, value)

    def mov_bx(self, value: int) -> Code:
        return self.raw(0xBB)._word(value)

    def mov_cx(self, value: int) -> Code:
        return self.raw(0xB9)._word(value)

    def mov_dx(self, value: int) -> Code:
        return self.raw(0xBA)._word(value)

    def mov_sp(self, value: int) -> Code:
        return self.raw(0xBC)._word(value)

    def mov_si(self, label: str) -> Code:
        return self.raw(0xBE)._reference(label, 2, relative=False)

    # Ports.
    def in_al_dx(self) -> Code:
        return self.raw(0xEC)

    def in_ax_dx(self) -> Code:
        return self.raw(0xED)

    def out_dx_al(self) -> Code:
        return self.raw(0xEE)

    def out_dx_ax(self) -> Code:
        return self.raw(0xEF)

    def out_imm_al(self, port: int) -> Code:
        return self.raw(0xE6, port)

    # Memory words.
    def inc_word(self, label: str) -> Code:
        return self.raw(0xFF, 0x06)._reference(label, 2, relative=False)

    def load_ax(self, label: str) -> Code:
        return self.raw(0xA1)._reference(label, 2, relative=False)

    def clear_word(self, label: str) -> Code:
        return self.raw(0xC7, 0x06)._reference(label, 2, relative=False)._word(0)

    def cmp_ax(self, value: int) -> Code:
        return self.raw(0x3D)._word(value)

    # Memory bytes.
    def load_dl(self, label: str) -> Code:
        return self.raw(0x8A, 0x16)._reference(label, 2, relative=False)

    def store_byte(self, label: str, value: int) -> Code:
        return self.raw(0xC6, 0x06)._reference(label, 2, relative=False).raw(value)

    def store_byte_at(self, address: int, value: int) -> Code:
        return self.raw(0xC6, 0x06)._word(address).raw(value)

    def cmp_byte(self, label: str, value: int) -> Code:
        return self.raw(0x80, 0x3E)._reference(label, 2, relative=False).raw(value)

    def mov_si_to(self, address: int) -> Code:
        return self.raw(0xBE)._word(address)

    def cmp_si(self, value: int) -> Code:
        return self.raw(0x81, 0xFE)._word(value)

    # Flow.
    def interrupt(self, number: int) -> Code:
        return self.raw(0xCD, number)

    def call(self, label: str) -> Code:
        return self.raw(0xE8)._reference(label, 2, relative=True)

    def jmp(self, label: str) -> Code:
        return self.raw(0xE9)._reference(label, 2, relative=True)

    def jz(self, label: str) -> Code:
        return self.raw(0x74)._reference(label, 1, relative=True)

    def jnz(self, label: str) -> Code:
        return self.raw(0x75)._reference(label, 1, relative=True)

    def jb(self, label: str) -> Code:
        return self.raw(0x72)._reference(label, 1, relative=True)

    def ret(self) -> Code:
        return self.raw(0xC3)

    def cli(self) -> Code:
        return self.raw(0xFA)

    def sti(self) -> Code:
        return self.raw(0xFB)

    def hlt(self) -> Code:
        return self.raw(0xF4)

    def assemble(self) -> bytes:
        """The code with every reference filled in. Raises ValueError for an unknown or too distant label."""
        code = bytearray(self._bytes)
        for fixup in self._fixups:
            code[fixup.position : fixup.position + fixup.width] = self._resolve(fixup)
        return bytes(code)

    def _resolve(self, fixup: _Fixup) -> bytes:
        if fixup.label not in self._labels:
            raise ValueError(f"label {fixup.label!r} is not defined")
        target = self._labels[fixup.label]
        if not fixup.relative:
            return (self._origin + target).to_bytes(2, "little")
        distance = target - (fixup.position + fixup.width)
        if fixup.width == 1 and not -128 <= distance <= 127:
            raise ValueError(f"label {fixup.label!r} is {distance} bytes away, too far for a short jump")
        return distance.to_bytes(fixup.width, "little", signed=True)
