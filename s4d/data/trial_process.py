"""A trial of a decoding backend in a process of its own: the files are unknown, and may end or occupy their decoder."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

from s4d.config import Config
from s4d.data.clean_process import CONTEXT, END_SECONDS, how_it_ended, kill, start_process
from s4d.data.current_file import NOTE_BYTES, read_note
from s4d.data.memory_limit import limit_memory
from s4d.data.plan import SamplePlan
from s4d.data.trial import SAMPLES, Trial, refusal, try_backend
from s4d.data.worker_process import Broken, Failed, prepare
from s4d.data.workers import POLL_SECONDS, SECONDS_PER_FILE
from s4d.errors import UserError

# The first use of a GPU alone can take half a minute. Other ranks wait for one trial of each backend, by default for
# ten minutes at most.
TRIAL_SECONDS = 180.0


def try_apart(
    backend: str, config: Config, plan: SamplePlan, rank: int, device: torch.device, samples: int = SAMPLES
) -> Trial:
    """`try_backend` in a new process, with a context of its own on a GPU.

    That the process dies of a file or takes too long is a refusal that names the file. On a CPU its memory is limited
    as that of a decoding process is. Errors are those of `try_backend`.
    """
    reason = refusal(backend)
    if reason is not None:
        return Trial(backend=backend, refusal=reason)
    note = CONTEXT.RawArray("B", NOTE_BYTES)
    connection, other = CONTEXT.Pipe(duplex=False)
    with connection:
        arguments = (backend, config, plan, rank, device, samples)
        with other:
            process = start_process(_serve, other, note, device.type == "cpu", try_backend, arguments)
        try:
            found = _answer(connection, process, note)
        finally:
            kill(process)
    if isinstance(found, Failed):
        raise found.error(found.message)
    if isinstance(found, Broken):
        raise RuntimeError(f"in a trial of {backend}:\n{found.text}")
    if isinstance(found, str):
        file = read_note(note)[1]
        return Trial(backend=backend, refusal=f"{file}: {found}" if file else found)
    return found


def _answer(connection: Connection, process: Any, note: Any) -> Trial | Failed | Broken | str:
    """What the process sends, or why it will not send anything."""
    noted, at_file, waited = 0, 0.0, 0.0
    while True:
        began = time.monotonic()
        if connection.poll(POLL_SECONDS):
            try:
                return connection.recv()
            except (EOFError, OSError):
                process.join(END_SECONDS)
                return how_it_ended(process.exitcode)
        # Both processes may be suspended for any time, which counts as one poll.
        seconds = min(time.monotonic() - began, 2 * POLL_SECONDS)
        count, file = read_note(note)
        at_file = at_file + seconds if file and count == noted else 0.0
        noted, waited = count, waited + seconds
        if at_file > SECONDS_PER_FILE:
            return f"decoding took more than {SECONDS_PER_FILE:g} s"
        if waited > TRIAL_SECONDS:
            return f"the trial took more than {TRIAL_SECONDS:g} s"


def _serve(connection: Connection, note: Any, limited: bool, trial: Callable[..., Trial], arguments: Any) -> None:
    prepare(note)
    if limited:
        limit_memory()
    connection.send(_found(trial, arguments))


def _found(trial: Callable[..., Trial], arguments: Any) -> Trial | Failed | Broken | str:
    try:
        return trial(*arguments)
    except UserError as error:
        return Failed(type(error), str(error))
    except MemoryError as error:
        return f"not enough memory ({error})"
    except Exception:
        return Broken(traceback.format_exc())
