"""Starts runs for trials: forked from this process, which has imported everything, or as commands of their own.

Reads one JSON object a line and answers with one. `{"start": "forked" | "command", "arguments", "cwd", "environment",
"out", "err"}` gives `{"pid"}`; `{"poll": pid}` gives `{"status"}`, null while it runs, negative for a signal.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import runpy
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ROOT / "engine" / "train.py"
PRELOAD = (
    "deepspeed",
    "engine.run",
    "pyarrow.parquet",
    "s4d.data.loader",
    "s4d.tasks.finetune",
    "s4d.tasks.pretrain",
)
MARK = "S4D_FAMILY"


def serve() -> None:
    """Answer until the input ends."""
    ended: dict[int, int] = {}
    for line in sys.stdin:
        request = json.loads(line)
        answer = {"pid": start(request)} if "start" in request else {"status": poll(request["poll"], ended)}
        print(json.dumps(answer), flush=True)


def start(request: dict[str, Any]) -> int:
    """A child that leads a process group of its own and has become what the request says; its process id."""
    ready, begun = os.pipe()
    child = os.fork()
    os.close(begun if child else ready)
    if child:
        # Closed when the child has its mark, by a change of its environment or by the start of the command.
        os.read(ready, 1)
        os.close(ready)
        return child
    try:
        os.setsid()
        for target, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), target)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(request["cwd"])
        if request["start"] == "command":
            environment = {**os.environ, **request["environment"]}
            os.execvpe(request["arguments"][0], request["arguments"], environment)
        change_environment(request["environment"])
        os.close(begun)
        # Whoever replaces these must not close the descriptors.
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
        for folder in request["environment"].get("PYTHONPATH", "").split(os.pathsep):
            customise(folder)
        sys.argv = [str(TRAIN), *request["arguments"]]
        runpy.run_path(str(TRAIN), run_name="__main__")
    except BaseException:
        traceback.print_exc()
    os._exit(1)


def change_environment(changes: dict[str, str]) -> None:
    """Change the environment of this process, its mark also where the kernel shows it to others."""
    library = ctypes.CDLL(None)
    library.getenv.restype = ctypes.c_void_p
    place, mark = library.getenv(MARK.encode()), changes[MARK].encode()
    assert place and len(os.environ[MARK]) == len(mark), "a mark can be replaced only by one of its length"
    ctypes.memmove(place, mark, len(mark))
    os.environ.update(changes)


def customise(folder: str) -> None:
    """What Python does at its start with a `sitecustomize.py` on the path."""
    path = Path(folder, "sitecustomize.py")
    if folder and path.is_file():
        sys.path.insert(0, folder)
        runpy.run_path(str(path), run_name="sitecustomize")


def poll(pid: int, ended: dict[int, int]) -> int | None:
    """Exit status of a child, None while it lives."""
    if pid not in ended:
        found, status = os.waitpid(pid, os.WNOHANG)
        if not found:
            return None
        ended[pid] = os.waitstatus_to_exitcode(status)
    return ended[pid]


if __name__ == "__main__":
    # Ctrl-C is for the test that started this.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.path[0] = str(ROOT)
    for name in PRELOAD:
        importlib.import_module(name)
    print("ready", flush=True)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    serve()
