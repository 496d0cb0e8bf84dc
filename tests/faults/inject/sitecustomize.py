"""Disturbs one rank from outside: put this folder on PYTHONPATH and a fault into S4D_FAULT, as JSON.

`{"kind": "sigkill", "rank": 1, "phase": "forward", "step": 3}` happens once, when that rank has entered that phase of
that optimizer step (the first is 1; without "step" at the first time). "rank" is a number or "last". A list of such
objects sets several faults. Kinds: the keys of `KINDS` below and `slow`; "seconds" is for `sleep` and `busy`, "factor"
for `slow`. "note" names a file that gets the monotonic time of the fault.

The product knows nothing of this: `Pulse.enter` is replaced after its module has been imported.
"""

from __future__ import annotations

import ctypes
import importlib.abc
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

MODULE = "engine.watchdog.heartbeat"
FOREVER = 1e9


class InjectedError(Exception):
    """A fault nobody foresaw."""


def _raise(fault: dict[str, Any]) -> None:
    raise InjectedError("injected")


def _send(number: int) -> Callable[[dict[str, Any]], None]:
    return lambda fault: os.kill(os.getpid(), number)


def _busy(fault: dict[str, Any]) -> None:
    end = time.monotonic() + fault.get("seconds", FOREVER)
    while time.monotonic() < end:
        pass


def _hold_gil(fault: dict[str, Any]) -> None:
    # A read that never returns, is begun again after a signal, and keeps the interpreter's lock.
    ends = os.pipe()
    ctypes.PyDLL(None).read(ends[0], ctypes.create_string_buffer(1), 1)


KINDS: dict[str, Callable[[dict[str, Any]], None]] = {
    "exception": _raise,
    "exit0": lambda fault: os._exit(0),
    "exit1": lambda fault: os._exit(1),
    "sigkill": _send(signal.SIGKILL),
    "sigsegv": lambda fault: ctypes.string_at(0) and None,
    "sigstop": _send(signal.SIGSTOP),
    "busy": _busy,
    "gil": _hold_gil,
    # On a node of the rig of network namespaces, whose only interface has this name.
    "link": lambda fault: subprocess.run(["ip", "link", "set", "eth0", "down"], check=True) and None,
    "sleep": lambda fault: time.sleep(fault.get("seconds", FOREVER)),
}


class _Fault:
    """One fault that waits for its moment; `slow` has no end once it has begun."""

    def __init__(self, fault: dict[str, Any]) -> None:
        if fault["kind"] not in KINDS and fault["kind"] != "slow":
            raise ValueError(f"S4D_FAULT: unknown kind {fault['kind']!r}")
        world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
        self.fault = fault
        self.waits = rank == (world - 1 if fault.get("rank", 0) == "last" else fault.get("rank", 0))
        self.slow = False
        self.last = time.monotonic()

    def meet(self, phase: str, step: int) -> None:
        if self.slow:
            time.sleep((time.monotonic() - self.last) * (self.fault.get("factor", 10) - 1))
        self.last = time.monotonic()
        if self.waits and phase == self.fault["phase"] and self.fault.get("step") in (None, step):
            self.waits = False
            if "note" in self.fault:
                Path(self.fault["note"]).write_text(str(time.monotonic()))
            if self.fault["kind"] == "slow":
                self.slow = True
            else:
                KINDS[self.fault["kind"]](self.fault)


def _disturb(module: ModuleType) -> None:
    described = json.loads(os.environ["S4D_FAULT"])
    faults = [_Fault(fault) for fault in (described if isinstance(described, list) else [described])]
    enter = module.Pulse.enter

    def disturbed(self: Any, phase: Any, step: int | None = None) -> None:
        enter(self, phase, step)
        for fault in faults:
            fault.meet(phase.label, self.step)

    module.Pulse.enter = disturbed  # type: ignore[attr-defined]


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the module where it is and changes it once it has been loaded."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.loader is not None
        load = spec.loader.exec_module

        def load_and_disturb(module: ModuleType) -> None:
            load(module)
            _disturb(module)

        spec.loader.exec_module = load_and_disturb  # type: ignore[method-assign]
        return spec


if os.environ.get("S4D_FAULT"):
    if MODULE in sys.modules:
        _disturb(sys.modules[MODULE])
    else:
        sys.meta_path.insert(0, _Finder())
