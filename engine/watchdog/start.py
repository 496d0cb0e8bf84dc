"""Joining a run under a watchdog: who shares a node, one process per node that watches, a guard in every rank."""

from __future__ import annotations

import faulthandler
import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import EngineError
from engine.runtime import Runtime, start_runtime
from engine.stop import stop
from engine.watchdog import node
from engine.watchdog.evidence import STACK_SIGNAL
from engine.watchdog.guard import Guard
from engine.watchdog.heartbeat import Board, pulse
from engine.watchdog.phases import Limits

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 30.0


class WatchdogError(EngineError):
    """The watchdog cannot be started."""

    exit_code = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One rank among those of the run, in the order of ranks; `node` is equal for ranks that share a machine."""

    rank: int
    node: str
    host: str
    pid: int
    thread: int
    stacks: int


def start_watched(run_dir: Path, phase_seconds: Mapping[str, float]) -> Runtime:
    """Join the run's process group and come under the watch of this node; collective."""
    limits = Limits(phase_seconds)
    with stop.heeded_while_joining():
        runtime = start_runtime(limits.start)
        members: list[Member] = runtime.gather(_describe(runtime.rank))
    mine = members[runtime.rank]
    local = [member for member in members if member.node == mine.node]
    leads = runtime.rank == local[0].rank
    # The lowest rank, which need not be local rank 0 where the nodes have unequal numbers of ranks.
    board = Board.create(len(local)) if leads else None
    secret = secrets.token_hex(16) if runtime.rank == 0 else ""
    shared: list[tuple[int, str]] = runtime.gather((board.descriptor if board else -1, secret))
    with runtime.together("starting the watchdog"):
        if board is None:
            board = Board.of(local[0].pid, shared[local[0].rank][0], len(local))
        pulse.attach(board, local.index(mine))
    task = {
        "ranks": [
            {"rank": other.rank, "pid": other.pid, "thread": other.thread, "stacks": other.stacks} for other in local
        ],
        "world_size": runtime.world_size,
        "host": mine.host,
        "nodes": len({member.node for member in members}),
        "run_dir": str(run_dir.absolute()),
        "limits": limits.seconds,
        "token": shared[0][1],
        "address": os.environ.get("MASTER_ADDR", "127.0.0.1"),
    }
    with runtime.together("starting the watchdog"):
        if runtime.rank == 0:
            _start_process(board, {**task, "server": None})
    port = runtime.agree(board.watchdog[1] if runtime.rank == 0 else 0)
    with runtime.together("starting the watchdog"):
        if leads and runtime.rank != 0:
            _start_process(board, {**task, "server": {"port": port, "host": members[0].host}})
    Guard(board, limits, host=mine.host, speaks=leads).start()
    return runtime


def _describe(rank: int) -> Member:
    # Ranks that see the same process ids of the same system can watch each other.
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    host = os.uname().nodename
    stacks = os.memfd_create("s4d-stacks", os.MFD_CLOEXEC)
    faulthandler.register(STACK_SIGNAL, file=stacks, all_threads=True)
    thread = threading.main_thread().ident or 0
    space = f"{host} {boot} {os.stat('/proc/self/ns/pid').st_ino}"
    return Member(rank=rank, node=space, host=host, pid=os.getpid(), thread=thread, stacks=stacks)


def _start_process(board: Board, task: dict[str, Any]) -> None:
    """Start this node's watchdog and wait until it watches; WatchdogError if it does not."""
    # Without site-packages it starts in a moment and stays small. It shares the ranks' session and process group, so
    # that it stops and continues with them where a user or a scheduler suspends a run.
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    process = subprocess.Popen(
        [sys.executable, "-S", "-m", node.__name__, str(board.descriptor)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        pass_fds=(board.descriptor,),
        env={**os.environ, "PYTHONPATH": path},
    )
    assert process.stdin is not None
    with process.stdin as stream:
        stream.write(json.dumps(task).encode() + b"\n")
    end = time.monotonic() + START_SECONDS
    while not board.watchdog[0]:
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise WatchdogError(f"the watchdog of {task['host']} did not start (status {process.wait()})")
        time.sleep(0.005)
    # It outlives this object; its end is the guards' business.
    process.returncode = 0
