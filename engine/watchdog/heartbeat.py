"""What the ranks of one node say about themselves, in memory that they share with the node's watchdog.

The board lives in an anonymous file of its creator: other processes open it below /proc, nothing is ever left on a
disk. One header, then one slot per local rank. A slot is written by its rank alone, without locks: a reader that
catches it halfway sees mixed fields and believes only what it reads twice.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from engine.watchdog.phases import Phase

HEADER_BYTES = 64
SLOT_BYTES = 1024
# Order to leave (1: leave), port of the watchdog's server, process id of the watchdog.
_HEADER = struct.Struct("<BxHI")
# Monotonic seconds of the last change, changes so far, step, phase, whether this is the first step.
_BEAT = struct.Struct("<dqqBB")
# Mark, exit status, length of the text.
_MARK = struct.Struct("<BBH")
_MARK_AT = 48
_TEXT_AT = 64
_TEXT_BYTES = SLOT_BYTES - _TEXT_AT


class Mark(IntEnum):
    """How a rank has left, or that it has not."""

    RUNNING = 0
    FINISHED = 1  # done, or stopped on request
    TOLD = 2  # failed and said why, or left because another rank said so
    LOST = 3  # failed because another rank is gone, which is for the watchdog to tell


@dataclass(frozen=True, kw_only=True, slots=True)
class Beat:
    """One rank's slot as it was read."""

    since: float
    count: int
    step: int
    phase: Phase
    first_step: bool
    mark: Mark
    status: int
    text: str


class Board:
    """The shared memory of one node."""

    def __init__(self, descriptor: int, slots: int) -> None:
        self.slots = slots
        self.descriptor = descriptor
        self.memory = mmap.mmap(descriptor, HEADER_BYTES + slots * SLOT_BYTES)

    @classmethod
    def create(cls, slots: int) -> Board:
        """A new board; its descriptor is not inherited unless passed on."""
        descriptor = os.memfd_create("s4d-watchdog", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, HEADER_BYTES + slots * SLOT_BYTES)
        return cls(descriptor, slots)

    @classmethod
    def of(cls, pid: int, descriptor: int, slots: int) -> Board:
        """The board that process `pid` has created as `descriptor`."""
        return cls(os.open(Path(f"/proc/{pid}/fd/{descriptor}"), os.O_RDWR | os.O_CLOEXEC), slots)

    @property
    def ordered_to_leave(self) -> bool:
        """True once the watchdog wants all ranks of the node to leave."""
        return bool(self.memory[0])

    def order_to_leave(self) -> None:
        """Ask all ranks of the node to leave; their guards look here."""
        self.memory[0] = 1

    @property
    def watchdog(self) -> tuple[int, int]:
        """Process id of the node's watchdog and the port it serves other nodes on; zeros until it is there."""
        _, port, pid = _HEADER.unpack_from(self.memory, 0)
        return pid, port

    def sign(self, port: int) -> None:
        """Say, as the watchdog, that this process watches from now on."""
        _HEADER.pack_into(self.memory, 0, 0, port, os.getpid())

    def read(self, slot: int) -> Beat:
        """What a rank says now."""
        at = HEADER_BYTES + slot * SLOT_BYTES
        since, count, step, phase, first_step = _BEAT.unpack_from(self.memory, at)
        mark, status, length = _MARK.unpack_from(self.memory, at + _MARK_AT)
        text = self.memory[at + _TEXT_AT : at + _TEXT_AT + length].decode(errors="replace")
        return Beat(
            since=since,
            count=count,
            step=step,
            phase=Phase(phase),
            first_step=bool(first_step),
            mark=Mark(mark),
            status=status,
            text=text,
        )


class Pulse:
    """This process's own slot; before `attach` it writes where nobody reads."""

    def __init__(self) -> None:
        self._board: Board | None = None
        self._memory: mmap.mmap | bytearray = bytearray(SLOT_BYTES)
        self._at = 0
        self._count = 0
        self._first_step: int | None = None
        self.first_step = True
        self.phase = Phase.START
        self.step = 0

    def attach(self, board: Board, slot: int) -> None:
        """Write into a slot of `board` from now on."""
        self._board = board
        self._memory, self._at = board.memory, HEADER_BYTES + slot * SLOT_BYTES
        self.enter(self.phase, self.step)

    @property
    def watched(self) -> bool:
        """True once a watchdog reads it."""
        return self._board is not None

    def told_status(self) -> int | None:
        """Exit status of a rank of this node that has said why it failed, None if none has."""
        beats = [self._board.read(slot) for slot in range(self._board.slots)] if self._board else []
        return next((beat.status for beat in beats if beat.mark == Mark.TOLD), None)

    def enter(self, phase: Phase, step: int | None = None) -> None:
        """Say that `phase` of optimizer step `step` (the first is 1; None: the present one) begins now.

        Costs about a microsecond.
        """
        step = self.step if step is None else step
        if self._first_step is None and phase == Phase.DATA:
            self._first_step = step
        self.first_step = self._first_step is None or step <= self._first_step
        self._count += 1
        self.phase, self.step = phase, step
        _BEAT.pack_into(self._memory, self._at, time.monotonic(), self._count, step, phase, self.first_step)

    def leave(self, mark: Mark, status: int, text: str = "") -> None:
        """Say how this process is about to leave; the first word counts."""
        if self._memory[self._at + _MARK_AT] != Mark.RUNNING:
            return
        data = text.encode()[:_TEXT_BYTES]
        self._memory[self._at + _TEXT_AT : self._at + _TEXT_AT + len(data)] = data
        _MARK.pack_into(self._memory, self._at + _MARK_AT, mark, status, len(data))


# A process has one pulse, as it has one process id.
pulse = Pulse()
