"""Ranks that stay: a process group of the tests of continued runs, and the tiny project that it trains."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import IO, Any, NoReturn, Protocol

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.append(str(HERE.parent / "engine"))

from engine_ports import free_port  # noqa: E402 (found through the line above)
from engine_project import run_values, write_media  # noqa: E402

Answer = dict[str, Any]

PRELOAD = ("deepspeed", "resume_ranks", "s4d.tasks.finetune", "s4d.tasks.pretrain")


class Rank(Protocol):
    """A process that answers a line with a line."""

    stdin: IO[str] | None
    stdout: IO[str] | None

    def poll(self) -> int | None: ...
    def kill(self) -> None: ...
    def wait(self) -> int: ...


class Forked:
    """A rank that begins as a copy of this process, which has imported everything."""

    def __init__(self, environment: dict[str, str], errors: IO[str]) -> None:
        jobs, to_rank = os.pipe()
        from_rank, answers = os.pipe()
        self._status: int | None = None
        self._pid = os.fork()
        if self._pid == 0:
            _become_rank(environment, (jobs, answers, errors.fileno()), (to_rank, from_rank))
        os.close(jobs)
        os.close(answers)
        _ends.extend((to_rank, from_rank))
        self.stdin, self.stdout = os.fdopen(to_rank, "w"), os.fdopen(from_rank)

    def poll(self) -> int | None:
        if self._status is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self._pid, signal.SIGKILL)

    def wait(self) -> int:
        if self._status is None:
            self._status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        return self._status


# Ends of pipes that this process holds: a pipe ends for its reader only when nobody else has it.
_ends: list[int] = []


def _become_rank(environment: dict[str, str], descriptors: tuple[int, int, int], mine: tuple[int, int]) -> NoReturn:
    status = 1
    try:
        for target, descriptor in enumerate(descriptors):
            os.dup2(descriptor, target)
        for end in (*_ends, *mine):
            os.close(end)
        os.environ.update(environment)
        sys.stdin = os.fdopen(0, closefd=False)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        importlib.import_module("resume_ranks").serve()
        status = 0
    except BaseException:
        traceback.print_exc()
    os._exit(status)


class Group:
    """`world_size` processes of `resume_ranks.py`.

    They are copies of this process, or new ones with their own seed of Python's hashes, started `late` seconds apart,
    the last one first if `backwards`.
    """

    def __init__(
        self, world_size: int, said: Path, *, hash_seed: int | None = None, late: float = 0.0, backwards: bool = False
    ) -> None:
        shared = {
            "DS_ACCELERATOR": "cpu",
            "OMP_NUM_THREADS": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            "WORLD_SIZE": str(world_size),
            "LOCAL_SIZE": str(world_size),
        }
        self._said = said
        self._ranks: dict[int, Rank] = {}
        numbers = range(world_size)
        with said.open("w") as errors:
            for rank in reversed(numbers) if backwards else numbers:
                environment = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
                if hash_seed is None:
                    self._ranks[rank] = Forked(environment, errors)
                else:
                    self._ranks[rank] = _started({**environment, "PYTHONHASHSEED": str(hash_seed)}, errors)
                time.sleep(late)

    def ask(
        self,
        run: list[str],
        *,
        source: Path | None = None,
        looks: int | None = None,
        ahead: int = 0,
        shake: int = 0,
    ) -> list[Answer]:
        """What each rank answers to a job; AssertionError with the last they said if one fails."""
        job = {"run": run, "source": str(source) if source else None, "looks": looks, "ahead": ahead, "shake": shake}
        ranks = [self._ranks[rank] for rank in sorted(self._ranks)]
        for rank in ranks:
            assert rank.stdin is not None
            rank.stdin.write(json.dumps(job) + "\n")
            rank.stdin.flush()
        answers = []
        for rank in ranks:
            assert rank.stdout is not None
            line = rank.stdout.readline()
            if not line:
                self.close()
                raise AssertionError(f"a rank ended: {self._said.read_text()[-1500:]}")
            answers.append(json.loads(line))
        return answers

    @property
    def alive(self) -> bool:
        """True as long as all ranks can be asked."""
        return all(rank.poll() is None for rank in self._ranks.values())

    def close(self) -> None:
        """End the ranks."""
        for rank in self._ranks.values():
            rank.kill()
            rank.wait()


def _started(environment: dict[str, str], errors: IO[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(HERE / "resume_ranks.py")],
        env={**os.environ, **environment, "PYTHONPATH": f"{ROOT}:{HERE}", "PYTHONWARNINGS": "ignore"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    )


_groups: dict[int, Group] = {}


def _preload() -> None:
    """Import what ranks need, so that they are started in a moment."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    warnings.simplefilter("ignore")
    for name in PRELOAD:
        importlib.import_module(name)


def group_of(world_size: int, folder: Path) -> Group:
    """The group of that size that this process keeps; a new one where the last one was lost."""
    if not _groups:
        _preload()
    if world_size not in _groups or not _groups[world_size].alive:
        _groups[world_size] = Group(world_size, folder / f"ranks-{world_size}.txt")
    return _groups[world_size]


def write_project(folder: Path) -> None:
    """Media, and a run file for each task with everything in it that is drawn at random."""
    write_media(folder)
    augment = {"color_jitter": 0.4, "randaug_ops": 2, "erase": 0.25, "interpolation": "random"}
    for task in ("pretrain", "finetune"):
        values = run_values(folder, folder / task, task)
        values["data"] |= {"image": augment, "video": augment}
        if task == "finetune":
            values["data"]["mix"] = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "label_smoothing": 0.1}
            values["data"]["val_share"] = 0.3
        else:
            values["data"]["sources"][0]["views"] = 2
        values["batch"] = {"per_step": {"stills": 8, "clips": 8}, "accumulation": 2}
        values["engine"] |= {"log_every": 1, "save_every": 1, "keep_last": 100}
        (folder / f"{task}.yaml").write_text(json.dumps(values))


def checkpoint_of(run_dir: Path, step: int) -> Path:
    """Where a run keeps what it was after `step` steps."""
    return run_dir / f"checkpoints/step-{step:08d}"


def tensor_files(checkpoint: Path) -> dict[str, bytes]:
    """Weights, moments and average, as they lie on the disk."""
    files = {path.name: path.read_bytes() for path in sorted(checkpoint.glob("*.safetensors"))}
    assert set(files) == {"model.safetensors", "optimizer.safetensors", "ema.safetensors"}, sorted(files)
    return files


def logged(run_dir: Path, after: int = 0) -> list[dict[str, Any]]:
    """The log of the steps after `after` without what depends on the clock."""
    entries = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [
        {name: value for name, value in entry.items() if not name.startswith("time/")}
        for entry in entries
        if entry["step"] > after
    ]
