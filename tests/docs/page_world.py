"""A sandbox in which what the pages name exists, and a process that runs commands in it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from page_blocks import ROOT, Command
from page_table import ADDED, FOLDERS, REPLACED

from s4d.synth import synthesize
from s4d.synth.recipe import Plan, render_clip
from s4d.synth.voxceleb2 import encode_video

FACES = 32
# What a runner starts as a process of its own, beside `s4d`.
PROCESSES = {"deepspeed": [sys.executable, "-m", "deepspeed.launcher.runner"], "python": [sys.executable]}


def write_world(root: Path) -> None:
    """Configurations, pages and results as in the repository; datasets, own clips and single media, all small."""
    for name in ("configs", "engine"):
        (root / name).symlink_to(ROOT / name)
    for name in ("docs", "benchmarks"):
        shutil.copytree(ROOT / name, root / name)
    shutil.copy(ROOT / "README.md", root)
    synthesize(root / "data", clips=35, images=35, identities=5, seed=1, size=FACES, workers=1, pretrain_clips=8)
    write_clips(root / "clips", 14)
    for split in ("train", "test"):
        write_clips(root / "data/mine" / split, 7)
    for name in ("new.mp4", "clip.mp4"):
        shutil.copy(next((root / "clips").rglob("*.mp4")), root / name)
    for name in ("fast", "tmp"):
        (root / name).mkdir()


def write_clips(folder: Path, count: int, size: int = FACES) -> None:
    """Clips as one's own files: `<class>/<number>.mp4`, one person after the other showing all seven classes."""
    plan = Plan(clips=count, images=0, identities=max(count // 7, 5), pretrain_clips=0, seed=2, size=size)
    for index in range(count):
        path = folder / plan.label(index) / f"{index:04d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        encode_video(path, render_clip(plan, index)[0])


def adapted(text: str, root: Path) -> str:
    """Text of a page with the folders and sizes of the sandbox."""
    for given, here in REPLACED.items():
        text = text.replace(given, here)
    return re.sub(rf"(?<![\w./-])(?={'|'.join(FOLDERS)})", str(root), text)


def runnable(command: Command, root: Path) -> list[str]:
    """Words of a command as they are run in the sandbox."""
    program, *rest = shlex.split(adapted(command.key[1], root))
    extra = [word for pattern, words in ADDED if re.search(pattern, command.key[1]) for word in words]
    if program == "deepspeed":
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        return ["deepspeed", "--master_port", str(port), *rest, *extra]
    return [program, *rest, *extra]


@dataclass(frozen=True, slots=True)
class Answer:
    """How a command ended."""

    status: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Runner:
    """Runs commands one after the other: `s4d` in children of a process that has imported everything."""

    given: IO[str]
    told: IO[str]
    environment: dict[str, str]

    def run(self, words: Sequence[str], cwd: Path) -> Answer:
        """One command in the folder `cwd`."""
        if words[0] == "s4d":
            self.given.write(json.dumps({"cwd": str(cwd), "command": list(words)}) + "\n")
            self.given.flush()
            return Answer(**json.loads(self.told.readline()))
        done = subprocess.run(
            [*PROCESSES[words[0]], *words[1:]],
            cwd=cwd,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=200,
        )
        return Answer(done.returncode, done.stdout, done.stderr)


@contextmanager
def started(*modules: str) -> Iterator[Runner]:
    """A runner that has imported `modules`, or by default all that training needs."""
    folder = os.path.dirname(sys.executable)
    environment = {
        # Tests interpret Triton's kernels; a page that compiles them does not.
        **{name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"},
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.fspath(ROOT),
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
    }
    with subprocess.Popen(
        [sys.executable, os.fspath(ROOT / "tests/command_server.py"), *modules],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as server:
        assert server.stdin is not None and server.stdout is not None
        try:
            yield Runner(server.stdin, server.stdout, environment)
        finally:
            # A command that went on for too long would keep the tests waiting.
            os.killpg(server.pid, signal.SIGKILL)
