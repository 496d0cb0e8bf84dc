"""How a failed run ends: one line for what a user can mend, a traceback for what nobody foresaw, and an exit status."""

from __future__ import annotations

import os
import shutil
import sys
import time
import traceback
from contextlib import suppress
from multiprocessing import util
from typing import NoReturn

import torch.distributed as dist

from engine.runtime import exit_code_of
from engine.stop import stop
from engine.watchdog.heartbeat import Mark, pulse

INTERRUPTED = 130
PEER_LOST = 4
PATIENCE_SECONDS = 10.0
POLL_SECONDS = 0.1
LOST_WORDS = ("gloo/transport", "Connection closed by peer", "Connection reset", "Timed out waiting")


def report(error: BaseException) -> int:
    """Print why this rank failed, if it is this rank's to tell, and return its exit status.

    `S4D_TRACEBACK=1` shows the traceback of every error.
    """
    if os.environ.get("S4D_TRACEBACK") == "1":
        traceback.print_exception(error)
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if getattr(error, "told_elsewhere", False):
        pulse.leave(Mark.TOLD, exit_code_of(error))
        return exit_code_of(error)
    rank, world_size = int(os.environ.get("RANK", "0")), os.environ.get("WORLD_SIZE", "1")
    named = f"rank {rank} of {world_size}: " if rank else ""
    if _is_lost_peer(error):
        return _tell_of_lost_peer(error, named)
    text = " ".join((_os_text(error) if isinstance(error, OSError) else str(error)).split())
    pulse.leave(Mark.TOLD, exit_code_of(error), f"{type(error).__name__}: {text}")
    # A full disk or a missing permission is no defect of the program.
    refused = isinstance(error, OSError) and error.strerror is not None
    if not refused and not isinstance(getattr(error, "exit_code", None), int):
        traceback.print_exception(error)
        where = f"rank {rank} of {world_size} on {os.uname().nodename}: step {pulse.step}, {pulse.phase.label}"
        print(f"error: {where}: {type(error).__name__}: {text}", file=sys.stderr, flush=True)
    elif not _first_rank_has_spoken():
        print(f"error: {named}{text}", file=sys.stderr, flush=True)
    return exit_code_of(error)


def leave(status: int) -> NoReturn:
    """End this process now.

    Exit handlers are left out: some wait for ranks that may be gone, and DeepSpeed keeps process groups alive into the
    interpreter's teardown, which now and then aborts a run that had already done its work.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    # The folder with the socket of the server that starts data workers, which an exit handler would remove.
    with suppress(OSError):
        shutil.rmtree(util.get_temp_dir())
    os._exit(status)


def _tell_of_lost_peer(error: BaseException, named: str) -> int:
    # The watchdog knows which rank is lost; it says what is said here only if it finds nobody. A rank that has told its
    # own failure decides how all of its node leave.
    if not pulse.watched:
        print(f"error: {named}lost contact with another rank", file=sys.stderr, flush=True)
    pulse.leave(Mark.LOST, PEER_LOST, " ".join(str(error).split()))
    return pulse.told_status() or PEER_LOST


def _is_lost_peer(error: BaseException) -> bool:
    """True for what a collective raises: plain runtime errors of gloo, errors with a type of their own from NCCL."""
    return isinstance(error, dist.DistError) or (
        type(error) is RuntimeError and any(words in str(error) for words in LOST_WORDS)
    )


def _os_text(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)


def _first_rank_has_spoken() -> bool:
    # A wrong configuration is met by all ranks of a node before they can talk. The launcher asks this rank to stop as
    # soon as the first one has left; should that one have no complaint, this rank speaks for itself.
    if dist.is_initialized() or int(os.environ.get("LOCAL_RANK", "0")) == 0:
        return False
    end = time.monotonic() + PATIENCE_SECONDS
    while not stop.requested and time.monotonic() < end:
        time.sleep(POLL_SECONDS)
    return stop.requested
