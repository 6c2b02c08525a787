# SPDX-License-Identifier: Apache-2.0
"""Guests that fit in 512 bytes: disk images whose boot sector greets on the first serial port.

They start in a third of a second under plain emulation, which makes a real guest cheap enough for every
test of the lifecycle. What a guest does after its greeting is chosen by a `Guestware`. The ports are those
that SeaBIOS programs on both the `pc` and the `q35` machine: power management events at 0x600, control at
0x604, panic device at 0x505.
"""

from __future__ import annotations

import dataclasses
import enum
import pathlib
import subprocess

from tests.rig.x86 import Code

SECTOR_BYTES = 512
IMAGE_BYTES = 1024 * 1024
DEFAULT_GREETING = "Hello from a boot sector"
#: The timer of the machine ticks 18.2 times per second.
TIMER_TICKS_PER_SECOND = 18

_COM1_DATA = 0x3F8
_COM1_LINE_STATUS = 0x3FD
_PM1_STATUS = 0x600
_PM1_ENABLE = 0x602
_PM1_CONTROL = 0x604
_PM1_SLEEP_S5 = 0x2000
_PVPANIC = 0x505
_KEYBOARD_CONTROLLER = 0x64

#: What the BIOS calls the first optical drive and the second hard disk.
_FIRST_CDROM = 0xE0
_SECOND_DISK = 0x81
_BUFFER = 0x8000
_SECTOR_ENDS = (_BUFFER + 512, _BUFFER + 2048)
_DRIVE_SECTORS = 4096


class Ending(enum.Enum):
    """What the guest does once its greeting is out (and its ticks, if it counts any, are spent)."""

    IDLE = "idle"
    POWER_OFF = "power_off"
    RESET = "reset"
    PANIC = "panic"
    HANG = "hang"


@dataclasses.dataclass(frozen=True)
class Guestware:
    """The program of a guest.

    greeting: the line it writes to the serial port at each boot.
    honours_button: switches itself off when the power button is pressed; otherwise it ignores the button.
    tick_every: timer ticks (1/18 s) between counter lines `tick N`; 0 for none.
    ending: what it does after `ending_after` timer ticks; IDLE goes on for ever.
    reads_drive: after its greeting it reads its first optical drive, or else its second disk, through the
        BIOS, and prints the files there that begin with `{` or `#`, then a line `END OF DRIVE`.
    """

    greeting: str = DEFAULT_GREETING
    honours_button: bool = False
    tick_every: int = 0
    ending: Ending = Ending.IDLE
    ending_after: int = 0
    reads_drive: bool = False

    def sector(self) -> bytes:
        """The 512 bytes of the boot sector. Raises ValueError if the program does not fit."""
        code = Code()
        _prologue(code)
        if self.honours_button:
            _arm_button(code)
        code.mov_si("greeting").call("print")
        if self.reads_drive:
            _read_drive(code)
        _main_loop(code, self)
        _routines(code)
        if self.reads_drive:
            _drive_variables(code)
        _variables(code, self.greeting)
        return _as_sector(code.assemble())

    def image(self, size: int = IMAGE_BYTES) -> bytes:
        """A raw disk image of `size` bytes."""
        return self.sector().ljust(size, b"\0")


#: Ignores the power button, so that only pulling the plug ends it.
IDLE = Guestware()
#: Honours a graceful shutdown.
POLITE = Guestware(honours_button=True)
#: Writes a counter every half second, and honours a graceful shutdown.
TICKER = Guestware(honours_button=True, tick_every=TIMER_TICKS_PER_SECOND // 2)
#: Shuts itself down a moment after its greeting.
SHORT_LIVED = Guestware(ending=Ending.POWER_OFF, ending_after=TIMER_TICKS_PER_SECOND)
#: Prints what is on its config drive, and honours a graceful shutdown.
READER = Guestware(honours_button=True, reads_drive=True)


def _prologue(code: Code) -> None:
    """Flat segments, a stack below the code, only the timer's interrupt let through."""
    code.cli()
    code.raw(0x31, 0xC0)  # xor ax, ax
    code.raw(0x8E, 0xD8, 0x8E, 0xC0, 0x8E, 0xD0)  # mov ds, ax; mov es, ax; mov ss, ax
    code.mov_sp(0x7C00)
    code.raw(0xFC)  # cld
    code.mov_al(0xFE).out_imm_al(0x21)
    code.mov_al(0xFF).out_imm_al(0xA1)


def _arm_button(code: Code) -> None:
    """Let the power button set its status bit, which the main loop polls."""
    code.mov_dx(_PM1_STATUS).mov_ax(0xFFFF).out_dx_ax()
    code.mov_dx(_PM1_ENABLE).mov_ax(0x0100).out_dx_ax()


def _main_loop(code: Code, program: Guestware) -> None:
    code.label("loop").sti().hlt()
    if program.honours_button:
        code.mov_dx(_PM1_STATUS).in_ax_dx()
        code.raw(0xF6, 0xC4, 0x01)  # test ah, 1
        code.jz("unpressed").jmp("power_off").label("unpressed")
    if program.tick_every:
        code.inc_word("since_tick").load_ax("since_tick").cmp_ax(program.tick_every).jb("ticked")
        code.clear_word("since_tick").call("tick").label("ticked")
    if program.ending is not Ending.IDLE:
        code.inc_word("age").load_ax("age").cmp_ax(max(program.ending_after, 1)).jb("alive")
        code.jmp(program.ending.value).label("alive")
    code.jmp("loop")


def _read_drive(code: Code) -> None:
    """Print what begins a sector with `{` or `#`, up to a zero, over as many sectors as it takes."""
    code.label("read")
    for end in _SECTOR_ENDS:
        code.store_byte_at(end, 0)
    code.store_byte("count", 1).mov_si("packet").load_dl("drive")
    code.raw(0xB4, 0x42).interrupt(0x13)  # mov ah, 0x42: read as the packet says
    code.jb("unread").mov_si_to(_BUFFER)
    code.cmp_byte("more", 1).jz("show")
    code.raw(0x80, 0x3C, ord("{")).jz("show")  # cmp byte [si], ...
    code.raw(0x80, 0x3C, ord("#")).jnz("next")
    code.label("show").call("print").store_byte("more", 1)
    for end in _SECTOR_ENDS:
        code.cmp_si(end + 1).jz("next")
    code.store_byte("more", 0).mov_si("newline").call("print")
    code.label("next").inc_word("lba").load_ax("lba").cmp_ax(_DRIVE_SECTORS).jb("read").jmp("all_read")
    code.label("unread").load_ax("lba").cmp_ax(0).jnz("all_read")
    code.cmp_byte("drive", _SECOND_DISK).jz("all_read").store_byte("drive", _SECOND_DISK).jmp("read")
    code.label("all_read").mov_si("end_of_drive").call("print")


def _drive_variables(code: Code) -> None:
    code.label("packet").raw(16, 0).label("count").raw(1, 0).raw(_BUFFER & 0xFF, _BUFFER >> 8, 0, 0)
    code.label("lba").data(bytes(8))
    code.label("drive").raw(_FIRST_CDROM).label("more").raw(0)
    code.label("end_of_drive").data(b"END OF DRIVE").label("newline").data(b"\r\n\0")


def _routines(code: Code) -> None:
    code.label("power_off").mov_dx(_PM1_CONTROL).mov_ax(_PM1_SLEEP_S5).out_dx_ax()
    code.label("hang").cli().hlt().jmp("hang")
    code.label("reset").mov_al(0xFE).out_imm_al(_KEYBOARD_CONTROLLER).jmp("hang")
    code.label("panic").mov_dx(_PVPANIC).mov_al(1).out_dx_al().jmp("hang")
    _print_string(code)
    _print_character(code)
    _print_tick(code)


def _print_string(code: Code) -> None:
    """print: the zero-terminated string at si."""
    code.label("print").raw(0xAC)  # lodsb
    code.raw(0x84, 0xC0)  # test al, al
    code.jz("printed").call("put").jmp("print")
    code.label("printed").ret()


def _print_character(code: Code) -> None:
    """put: the character in al, once the port can take it."""
    code.label("put").raw(0x50)  # push ax
    code.mov_dx(_COM1_LINE_STATUS).label("busy").in_al_dx()
    code.raw(0xA8, 0x20)  # test al, 0x20
    code.jz("busy").raw(0x58)  # pop ax
    code.mov_dx(_COM1_DATA).out_dx_al().ret()


def _print_tick(code: Code) -> None:
    """tick: count on, and print the line `tick N`."""
    code.label("tick").inc_word("ticks").mov_si("tick_word").call("print")
    code.load_ax("ticks").mov_bx(10).mov_si("digits_end")
    code.label("digit").raw(0x4E, 0x31, 0xD2, 0xF7, 0xF3)  # dec si; xor dx, dx; div bx
    code.raw(0x80, 0xC2, 0x30, 0x88, 0x14)  # add dl, '0'; mov [si], dl
    code.raw(0x85, 0xC0)  # test ax, ax
    code.jnz("digit").call("print").ret()


def _variables(code: Code, greeting: str) -> None:
    code.label("greeting").data(greeting.encode("ascii") + b"\r\n\0")
    code.label("tick_word").data(b"tick \0")
    code.data(b"     ").label("digits_end").data(b"\r\n\0")
    for name in ("since_tick", "ticks", "age"):
        code.label(name).data(b"\0\0")


def _as_sector(code: bytes) -> bytes:
    room = SECTOR_BYTES - 2
    if len(code) > room:
        raise ValueError(
            f"the boot sector holds {room} bytes, the program has {len(code)}: shorten the greeting"
        )
    return code.ljust(room, b"\0") + b"\x55\xaa"


class Images:
    """A directory of guest images, made when they are asked for."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def raw(self, name: str, program: Guestware = IDLE, size: int = IMAGE_BYTES) -> pathlib.Path:
        """A raw image of `size` bytes that runs `program`."""
        path = self.directory / f"{name}.raw"
        path.write_bytes(program.image(size))
        return path

    def qcow2(self, name: str, program: Guestware = IDLE, size: int = IMAGE_BYTES) -> pathlib.Path:
        """The same as a qcow2 image."""
        source = self.raw(f"{name}.source", program, size)
        path = self.directory / f"{name}.qcow2"
        command = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(source), str(path)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        source.unlink()
        return path

    def url(self, path: pathlib.Path) -> str:
        """The `file://` URL under which an instance names the image."""
        return path.as_uri()
