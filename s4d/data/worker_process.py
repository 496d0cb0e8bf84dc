"""One decoding process: computes items as they are asked for, within limits on its memory."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from s4d.data import buffers, current_file, handover
from s4d.data.memory_limit import limit_memory
from s4d.errors import UserError

OUT_OF_MEMORY = 77
SWITCH_SECONDS = 5e-4
GRACE_SECONDS = 20.0
TASK_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Failed:
    """A user's error that happened in a worker."""

    error: type[UserError]
    message: str


@dataclass(frozen=True, slots=True)
class Broken:
    """Any other error: a fault of the program, with its traceback."""

    text: str


def serve(connection: socket.socket, note: Any, items: Any, refused: Mapping[str, str]) -> None:
    """Answer each task (number, index, newly refused files) with (number, item), until the other side closes."""
    prepare(note)
    limit_memory()
    current_file.refuse(refused)
    # A reset or broken connection is that of a killed training process.
    with suppress(ConnectionResetError, BrokenPipeError):
        while task := connection.recv(TASK_BYTES):
            number, index, newly_refused = pickle.loads(task)
            current_file.refuse(newly_refused)
            item = _item(items, index)
            # What follows is no file's fault.
            current_file.finished()
            handover.send(connection, number, item)
            # Its memory is free for the next one.
            del item


def _item(items: Any, index: int) -> Any:
    try:
        return items[index]
    except UserError as error:
        return Failed(type(error), str(error))
    except MemoryError:
        # Whoever asked learns it from the status, and starts a process whose memory is not in pieces.
        os._exit(OUT_OF_MEMORY)
    except Exception:
        return Broken(traceback.format_exc())


def prepare(note: Any) -> None:
    """Make this process one that outlasts signals, ends with its parent and notes in `note` what it is at work on."""
    # Ctrl-C and a launcher's SIGTERM reach all processes; the training process may still want a batch to end its step.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_later)
    sys.setswitchinterval(SWITCH_SECONDS)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    buffers.share()
    handover.raise_open_files()
    current_file.watch(note)


def _end_later(number: int, frame: object) -> None:
    timer = threading.Timer(GRACE_SECONDS, os._exit, (128 + number,))
    timer.daemon = True
    timer.start()


def _end_with_parent() -> None:
    # A worker keeps its fork server alive and the other way round, so both would outlive a killed training process.
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
