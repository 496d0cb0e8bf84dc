"""Runs commands for the tests one after the other, each in a forked child of a process that has imported everything.

Reads one JSON object a line, `{"cwd": ..., "command": ["s4d" | "train", ...]}`, and answers `{"status", "out", "err"}`.
Arguments name the modules to import instead of all that training needs.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import sys
import tempfile
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TRAIN = ROOT / "engine" / "train.py"
PRELOAD = (
    "deepspeed",
    "engine.run",
    "pyarrow.parquet",
    "s4d.analysis.report",
    "s4d.cli.app",
    "s4d.data.loader",
    "s4d.golden",
    "s4d.tasks.finetune",
    "s4d.tasks.pretrain",
)


def serve() -> None:
    """Answer until the input ends."""
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(answer(request["cwd"], request["command"])), flush=True)


def answer(cwd: str, command: list[str]) -> dict[str, object]:
    """Exit status and output of one command in a child process."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            os.chdir(cwd)
            _become(command)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode(errors="replace"))
    return {"status": status, "out": texts[0], "err": texts[1]}


def _become(command: list[str]) -> None:
    # Whoever replaces these must not close the descriptors.
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    status = 1
    try:
        if command[0] == "s4d":
            status = importlib.import_module("s4d.cli").main(command[1:])
        else:
            sys.argv = [str(TRAIN), *command[1:]]
            runpy.run_path(str(TRAIN), run_name="__main__")
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    for name in sys.argv[1:] or PRELOAD:
        importlib.import_module(name)
    serve()
