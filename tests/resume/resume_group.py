"""Ranks that stay: a process group of the tests of continued runs, and the tiny project that it trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.append(str(HERE.parent / "engine"))

from engine_ports import free_port  # noqa: E402 (found through the line above)
from engine_project import run_values, write_media  # noqa: E402

Answer = dict[str, Any]


class Group:
    """`world_size` processes of `resume_ranks.py`; `late` seconds apart, the last one first if `backwards`."""

    def __init__(self, world_size: int, said: Path, *, hash_seed: int = 0, late: float = 0.0, backwards: bool = False):
        environment = {
            **os.environ,
            "DS_ACCELERATOR": "cpu",
            "OMP_NUM_THREADS": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            "WORLD_SIZE": str(world_size),
            "LOCAL_SIZE": str(world_size),
            "PYTHONPATH": f"{ROOT}:{HERE}",
            "PYTHONHASHSEED": str(hash_seed),
            "PYTHONWARNINGS": "ignore",
        }
        self._said = said
        self._ranks: dict[int, subprocess.Popen[str]] = {}
        numbers = range(world_size)
        with said.open("w") as errors:
            for rank in reversed(numbers) if backwards else numbers:
                self._ranks[rank] = subprocess.Popen(
                    [sys.executable, str(HERE / "resume_ranks.py")],
                    env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                )
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
            rank.communicate()


_groups: dict[int, Group] = {}


def group_of(world_size: int, folder: Path) -> Group:
    """The group of that size that this process keeps; a new one where the last one was lost."""
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
