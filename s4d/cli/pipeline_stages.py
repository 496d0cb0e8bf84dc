"""The commands of the pipeline, as a user gives them: generated faces, manifests, training, killing, scoring."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from s4d.cli.bounded_command import KILLED, OUT_OF_TIME, run_bounded, source_environment
from s4d.cli.output import print_lines
from s4d.errors import DataError
from s4d.shipped_configs import REHEARSAL_MODEL, SHIPPED

ROOT = Path(__file__).resolve().parents[2]
TASKS = ("pretrain", "finetune")
CONFIGS = {task: SHIPPED / task / "demo.yaml" for task in TASKS}
MANIFESTS = {"pretrain": ("affectnet", "voxceleb2"), "finetune": ("affectnet", "dfew")}
DATASETS: dict[str, tuple[str, ...]] = {"voxceleb2": (), "affectnet": (), "dfew": ("--fold", "1")}
_ENTRY = "import json, sys; from s4d.cli import main; sys.exit(max(map(main, json.loads(sys.argv[1]))))"
_SAID = 3000


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """How much is generated and trained; the configurations are those of `make demo`.

    The fine-tuning run saves every `save_every` steps and is killed once it has logged `kill_step`.
    """

    clips: int
    images: int
    identities: int
    pretrain_steps: int
    finetune_steps: int
    save_every: int
    kill_step: int
    log_every: int
    overrides: tuple[str, ...] = ()


SIZES = {
    "full": Size(
        clips=700,
        images=2100,
        identities=100,
        pretrain_steps=400,
        finetune_steps=400,
        save_every=100,
        kill_step=240,
        log_every=10,
    ),
    # For rehearsals: a minute on two cores, most of it the start of processes.
    "tiny": Size(
        clips=35,
        images=70,
        identities=5,
        pretrain_steps=4,
        finetune_steps=24,
        save_every=4,
        kill_step=10,
        log_every=1,
        overrides=(
            *REHEARSAL_MODEL,
            "data.workers=1",
        ),
    ),
}


def task_overrides(size: Size, task: str) -> list[str]:
    """What a size makes of the configuration of a task, paths apart."""
    steps = size.pretrain_steps if task == "pretrain" else size.finetune_steps
    save_every = steps if task == "pretrain" else size.save_every
    own = ["evaluation.frame_baseline=false"] if task == "finetune" else []
    lengths = [f"engine.steps={steps}", f"engine.save_every={save_every}", f"engine.log_every={size.log_every}"]
    return [*lengths, *own, *size.overrides]


def recipe_of(name: str) -> dict[str, Any]:
    """What two runs must have in common for their scores to be comparable."""
    from s4d.config_overrides import apply_overrides
    from s4d.config_yaml import read_yaml

    size, digests = SIZES[name], {}
    for task, path in CONFIGS.items():
        values = read_yaml(path)
        apply_overrides(values, task_overrides(size, task))
        digests[task] = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
    return {"size": name, **asdict(size), "overrides": list(size.overrides), "configurations": digests}


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Where everything lies below the folder of the pipeline."""

    work: Path

    def run_dir(self, task: str, seed: int, suffix: str = "") -> Path:
        """Run folder of a task."""
        return self.work / f"{task}-{seed}{suffix}"

    def overrides(self, size: Size, task: str, seed: int, *, backend: str, suffix: str = "") -> list[str]:
        """The whole command line behind `--config`."""
        paths = {"run_dir": self.run_dir(task, seed, suffix)}
        for index, name in enumerate(MANIFESTS[task]):
            paths[f"data.sources.{index}.manifest"] = self.work / "manifests" / f"{name}.parquet"
        if task == "finetune":
            paths["model.init_from"] = self.run_dir("pretrain", seed)
        # A quoted text is a text, whatever YAML makes of the bare one.
        told = [f"{key}={json.dumps(os.fspath(path))}" for key, path in paths.items()]
        return [f"seed={seed}", f"data.backend={backend}", *told, *task_overrides(size, task)]

    def generate(self, size: Size) -> list[list[str]]:
        """Write the data sets."""
        counts = {"clips": size.clips, "images": size.images, "identities": size.identities, "seed": 0}
        options = [word for name, count in counts.items() for word in (f"--{name}", str(count))]
        return [["data", "synth", "--out", os.fspath(self.work / "data"), *options]]

    def prepare(self) -> list[list[str]]:
        """Write the manifests."""
        return [
            ["data", "prepare", name, os.fspath(self.work / "data" / name), "--out", os.fspath(path), *options]
            for name, options in DATASETS.items()
            for path in [self.work / "manifests" / f"{name}.parquet"]
        ]

    def validate(self) -> list[list[str]]:
        """Check the manifests, decoding a few media of each."""
        paths = [self.work / "manifests" / f"{name}.parquet" for name in DATASETS]
        return [["data", "validate", os.fspath(path), "--sample", "30", "--stride", "3"] for path in paths]


def s4d_command(commands: list[list[str]]) -> list[str]:
    """One process that gives several commands of `s4d`; its status is the largest."""
    return [sys.executable, "-c", _ENTRY, json.dumps(commands)]


def training_command(task: str, overrides: list[str], ranks: int) -> list[str]:
    """`deepspeed engine/train.py`, which needs no script on the PATH; the same command continues a run."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_accelerators", str(ranks)]
    script = os.fspath(ROOT / "engine" / "train.py")
    return [*launcher, "--master_port", port, script, "--config", os.fspath(CONFIGS[task]), *overrides]


class Stages:
    """Runs one stage after the other under a limit for all, and keeps what became of each."""

    def __init__(self, work: Path, device: str, limit: float, after_each: Callable[[], None]) -> None:
        self.records: list[dict[str, Any]] = []
        self._logs = work / "logs"
        self._logs.mkdir(parents=True, exist_ok=True)
        self._end = time.monotonic() + limit
        self._after_each = after_each
        self._environment = {**source_environment(), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": device}
        if device == "cpu":
            self._environment["CUDA_VISIBLE_DEVICES"] = ""

    def run(
        self,
        name: str,
        command: list[str],
        *,
        out: Path | None = None,
        kill_when: Callable[[], bool] | None = None,
    ) -> str:
        """Run a stage and return what it said; DataError if it fails, or ends by itself before `kill_when`."""
        log, begin = self._logs / f"{name}.log", time.monotonic()
        outcome = run_bounded(
            command,
            log=log,
            environment=self._environment,
            cwd=ROOT,
            limit=self._end - begin,
            out=out,
            kill_when=kill_when,
        )
        said = log.read_text(encoding="utf-8", errors="replace")
        passes = outcome == (KILLED if kill_when else 0)
        told = [word.replace(f"{ROOT}/", "") for word in command[1:]]
        record = {"name": name, "command": told, "outcome": outcome, "seconds": time.monotonic() - begin}
        self.records.append(record if passes else {**record, "said": said[-_SAID:]})
        print_lines([f"{name}: {self._words(outcome)} after {record['seconds']:.0f} s"])
        sys.stdout.flush()
        self._after_each()
        if not passes:
            raise DataError(f"{name}: {self._words(outcome)}{_told(said)}; all it said is in {log}")
        return said

    def _words(self, outcome: int | str) -> str:
        if isinstance(outcome, str):
            return outcome if outcome == KILLED else f"{OUT_OF_TIME}, the pipeline's limit is reached"
        return "done" if outcome == 0 else f"failed with status {outcome}"


def _told(said: str) -> str:
    lines = [line for line in said.splitlines() if "error: " in line] or said.strip().splitlines()[-1:]
    return f": {lines[0]}" if lines else ""


def reached_step(run_dir: Path) -> int:
    """The last step that a running run has logged, 0 before the first; half a line does not count yet."""
    step = 0
    with suppress(OSError):
        for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").split("\n")[:-1]:
            step = max(step, json.loads(line)["step"])
    return step


def saved_step(run_dir: Path) -> int:
    """Step of the newest published checkpoint, 0 without one."""
    from engine.checkpoint_retention import published, step_of

    return max(map(step_of, published(run_dir / "checkpoints")), default=0)


def differing_files(run: Path, other: Path) -> list[str]:
    """Files of tensors that are not the same bytes in the newest checkpoints of two runs, `step` if those differ."""
    from engine.checkpoint_retention import published

    ours, theirs = (next(iter(published(each / "checkpoints"))) for each in (run, other))
    if ours.name != theirs.name:
        return ["step"]
    names = sorted({path.name for folder in (ours, theirs) for path in folder.glob("*.safetensors")})
    return [name for name in names if _bytes(ours / name) != _bytes(theirs / name)]


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
