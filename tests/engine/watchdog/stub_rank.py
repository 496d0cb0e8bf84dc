"""A rank without torch: writes its pulse and does what its script says, `[["enter", "forward", 3], ["busy"]]`.

python stub_rank.py <process with the board> <descriptor> <slots> <slot> <folder of waiting.py> <script>; tells on
standard output what the watchdog needs to know of it and begins when its input is closed.
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib.util
import json
import os
import signal
import sys
import threading
import time
from typing import Any

from engine.watchdog.evidence import STACK_SIGNAL
from engine.watchdog.heartbeat import Board, Mark, pulse
from engine.watchdog.phases import Phase


def act(name: str, values: list[Any], waiting: str) -> None:
    """One line of the script."""
    if name == "enter":
        pulse.enter(Phase[values[0].upper()], values[1])
    elif name == "sleep":
        time.sleep(values[0])
    elif name == "wait":
        spec = importlib.util.spec_from_file_location("waiting", waiting)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.wait(values[0])
    elif name == "leave":
        pulse.leave(Mark[values[0]], values[1], values[2])
        os._exit(values[1])
    elif name == "exit":
        os._exit(values[0])
    elif name == "signal":
        os.kill(os.getpid(), signal.Signals[values[0]])
    elif name == "gil":
        ctypes.PyDLL(None).read(os.pipe()[0], ctypes.create_string_buffer(1), 1)
    while name == "busy":
        pass


def main() -> None:
    pid, descriptor, slots, slot = map(int, sys.argv[1:5])
    pulse.attach(Board.of(pid, descriptor, slots), slot)
    stacks = os.memfd_create("stacks")
    faulthandler.register(STACK_SIGNAL, file=stacks, all_threads=True)
    thread = threading.main_thread().ident
    print(json.dumps({"pid": os.getpid(), "thread": thread, "stacks": stacks}), flush=True)
    sys.stdin.read()
    for name, *values in json.loads(sys.argv[6]):
        act(name, values, sys.argv[5])


if __name__ == "__main__":
    main()
