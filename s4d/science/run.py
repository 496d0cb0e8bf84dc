"""Runs the arms, each seed of one, and keeps what came out: a document and the predictions of every finished run.

A run that was cut short goes on from its last checkpoint in the work folder. Pre-trainings are shared by the arms of a
seed; they are run when the first of these needs them.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import torch

from s4d.analysis.curves import is_number
from s4d.analysis.predictions import predictions_npz, read_predictions
from s4d.analysis.run_folder import read_run
from s4d.atomic_files import write_atomically
from s4d.config import Config, load
from s4d.config_overrides import apply_overrides
from s4d.config_yaml import read_yaml
from s4d.data.plan import SamplePlan
from s4d.data.sources import load_sources
from s4d.errors import DataError
from s4d.json_text import to_json
from s4d.science.amounts import Data, Size
from s4d.science.arms import (
    DYNAMIC,
    GROUPS,
    PRETRAININGS,
    STATIC,
    Arm,
    even_rate,
    finetune_overrides,
    pretrain_overrides,
)
from s4d.science.cross_use import cross_use

SCHEMA = 1
FINISHED = "finished.json"
# Checkpoints of a run that are kept, where any are.
KEPT = 10


class Train(Protocol):
    """Trains what a configuration and overrides say in a run folder, going on with what it holds, for some seconds."""

    def __call__(self, config: Path, overrides: Sequence[str], run_dir: Path, *, limit: float) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One arm with one seed."""

    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        """Its files and run folder."""
        return f"{self.arm.name}-{self.seed}"


def rows_of(arms: Sequence[Arm], seeds: Sequence[int]) -> list[Row]:
    """All rows, one group before the next, in it one seed of all arms before the next."""
    groups = [[arm for arm in arms if arm.group == group] for group in GROUPS]
    return [Row(arm=arm, seed=seed) for group in groups for seed in seeds for arm in group]


class Experiment:
    """One size of the experiment: data and run folders below `work`, documents in `results`."""

    def __init__(
        self,
        size: Size,
        *,
        work: Path,
        results: Path,
        train: Train,
        device: torch.device,
        facts: Callable[[], Mapping[str, Any]],
        say: Callable[[str], None],
    ) -> None:
        self.size, self.work, self.results = size, work.resolve(), results
        self.data = Data(size, self.work / "data")
        self._train, self._device, self._facts, self._say = train, device, facts, say

    def is_done(self, row: Row) -> bool:
        """Whether a row's document is there; DataError if it was made with other settings."""
        path = self._document(row.name)
        if not path.exists():
            return False
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))["settings"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: no result of `s4d science run`: {error!r}") from error
        if settings != self._settings(row):
            raise DataError(f"{path}: settings: made with other ones; move the file away to run this row again")
        return True

    def run(self, rows: Sequence[Row], end: float) -> list[Row]:
        """Finish rows until `end` on the monotonic clock; returns those that are missing still."""
        missing = [row for row in rows if not self.is_done(row)]
        while missing and not _is_over(end):
            self.data.make()
            if not self._finish(missing[0], end):
                break
            missing.pop(0)
        return missing

    def overrides(self, row: Row) -> list[str]:
        """The whole command line of a row behind `--config`, run folder apart."""
        arm = row.arm
        words = [*finetune_overrides(arm, self.size.finetune), *self.size.overrides, *self.size.finetune_overrides]
        if arm.keeps:
            every = max(1, (load(self.size.finetune, words).engine.steps or 0) // KEPT)
            words += [f"engine.save_every={every}", f"engine.keep_every={every}"]
        if arm.alternates:
            per_step = load(self.size.finetune, words).batch.per_step
            stills, clips = self.data.count(STATIC, arm.stills), self.data.count(DYNAMIC)
            words.append(f"data.sources.0.rate={even_rate(stills, clips, per_step)}")
        if arm.pretraining is not None:
            words.append(_path("model.init_from", self.run_dir(_pretraining(arm.pretraining, row.seed))))
        return [*words, *self._media(arm.sources, arm.stills), f"seed={row.seed}"]

    def run_dir(self, name: str) -> Path:
        """Run folder of a row or pre-training."""
        return self.work / "runs" / name

    def _finish(self, row: Row, end: float) -> bool:
        """Run a row to its document; False if the time was over before."""
        kind = row.arm.pretraining
        if kind is not None and not self._pretrain(kind, row.seed, end):
            return False
        words = self.overrides(row)
        if not self._trained(self.size.finetune, words, row.name, end):
            return False
        self._keep(row, load(self.size.finetune, [*words, _path("run_dir", self.run_dir(row.name))]))
        return True

    def _pretrain(self, kind: str, seed: int, end: float) -> bool:
        name = _pretraining(kind, seed)
        words = [*pretrain_overrides(kind, self.size.pretrain), *self.size.overrides]
        words += [*self._media(PRETRAININGS[kind].sources, 1.0), f"seed={seed}"]
        if not self._trained(self.size.pretrain, words, name, end):
            return False
        if not self._document(name).exists():
            config = load(self.size.pretrain, [*words, _path("run_dir", self.run_dir(name))])
            document = {"kind": "pre-training", "pretraining": kind, "seed": seed, **self._of_run(config)}
            write_atomically(self._document(name), to_json(document))
        return True

    def _trained(self, config: Path, words: Sequence[str], name: str, end: float) -> bool:
        """Train a run unless it is finished; False if the time was over before."""
        run_dir = self.run_dir(name)
        if (run_dir / FINISHED).exists():
            return True
        if _is_over(end):
            return False
        begin = time.monotonic()
        self._say(f"{self.size.name} {name}: training")
        try:
            self._train(config, words, run_dir, limit=end - begin)
        except DataError:
            if not _is_over(end):
                raise
            self._say(f"{self.size.name} {name}: out of time; goes on from its last checkpoint")
            return False
        self._say(f"{self.size.name} {name}: {time.monotonic() - begin:.0f} s")
        return True

    def _keep(self, row: Row, config: Config) -> None:
        """Write a finished row's predictions and, last, its document."""
        predictions = read_predictions(Path(config.run_dir) / "predictions.npz")
        scores = json.loads((Path(config.run_dir) / "evaluation.json").read_text(encoding="utf-8"))["sources"]
        document = {
            "kind": "measurement",
            "arm": row.arm.name,
            "title": row.arm.title,
            "seed": row.seed,
            "command": f"s4d science run --size {self.size.name} --arm {row.arm.name} --seed {row.seed}",
            "settings": self._settings(row),
            "scores": scores,
            "cross_use": self._cross_use(row),
            **self._of_run(config),
        }
        write_atomically(self.results / f"{row.name}.npz", predictions_npz(predictions.values()))
        write_atomically(self._document(row.name), to_json(document))
        told = ", ".join(f"{name} UAR {entry['uar']:.3f}" for name, entry in scores.items())
        self._say(f"{self.size.name} {row.name}: {told}")

    def _cross_use(self, row: Row) -> dict[str, Any] | None:
        """What the only head of an arm makes of the other set; None in an arm with both heads."""
        if len(row.arm.sources) > 1:
            return None
        words = [*self.size.overrides, *self.size.finetune_overrides, *self._media((STATIC, DYNAMIC), 1.0)]
        both = load(self.size.finetune, [*words, "model.init_from=null"])
        return cross_use(self.run_dir(row.name), row.arm.sources[0], both, self._device)

    def _of_run(self, config: Config) -> dict[str, Any]:
        """What is kept of any finished run."""
        run = read_run(Path(config.run_dir))
        ranks = run.environment.get("world_size")
        plan = SamplePlan(config, load_sources(config), world_size=ranks if isinstance(ranks, int) else 1)
        curve = [{"step": line["step"], **_evaluated(line)} for line in run.metrics if _evaluated(line)]
        return {
            "schema": SCHEMA,
            "what": "science",
            "size": self.size.name,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            **self._facts(),
            "ranks": ranks,
            "data": {
                "amounts": self.size.amounts(),
                "training_samples": {source.config.name: len(source.rows) for source in plan.sources},
                "fingerprints": {source.config.name: source.fingerprint[:16] for source in plan.sources},
            },
            "steps": plan.total_steps,
            "samples_seen": samples_seen(plan),
            "seconds": round(seconds_in_steps(run.metrics), 1),
            "curve": curve,
            "losses": [[line["step"], line["loss"]] for line in run.metrics if is_number(line.get("loss"))],
        }

    def _media(self, sources: Sequence[str], stills: float) -> list[str]:
        """Overrides that give sources, in the order of the table, their files."""
        words = []
        for index, name in enumerate(sources):
            media = self.data.media(name, stills if name == STATIC else 1.0)
            words.append(_path(f"data.sources.{index}.manifest", media.manifest))
            words.append(_path(f"data.sources.{index}.cache", media.cache))
        return words

    def _settings(self, row: Row) -> dict[str, Any]:
        """What makes a row what it is: digests of its configurations without paths, and the amounts of data."""
        kind = row.arm.pretraining
        pretrain = None if kind is None else _digest(self.size.pretrain, pretrain_overrides(kind, self.size.pretrain))
        finetune = _digest(self.size.finetune, finetune_overrides(row.arm, self.size.finetune))
        return {
            "data": self.size.amounts(),
            "stills": row.arm.stills,
            "overrides": [*row.arm.overrides, *self.size.overrides],
            "pretrain": pretrain,
            "finetune": finetune,
        }

    def _document(self, name: str) -> Path:
        return self.results / f"{name}.json"


def _pretraining(kind: str, seed: int) -> str:
    return f"pretrain-{kind}-{seed}"


def _digest(config: Path, words: Sequence[str]) -> str:
    values = read_yaml(config)
    apply_overrides(values, list(words))
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _path(key: str, path: Path) -> str:
    """A quoted text is a text, whatever YAML makes of the bare one."""
    return f"{key}={json.dumps(os.fspath(path))}"


def _is_over(end: float) -> bool:
    return time.monotonic() >= end


def _evaluated(line: Mapping[str, float]) -> dict[str, float]:
    return {key.removeprefix("eval/"): value for key, value in line.items() if key.startswith("eval/")}


def samples_seen(plan: SamplePlan) -> dict[str, int]:
    """Views of each modality in all steps of a run."""
    seen: dict[str, int] = {}
    for step in range(plan.total_steps):
        for modality, count in plan.step_samples(step).items():
            seen[modality] = seen.get(modality, 0) + count
    return seen


def seconds_in_steps(metrics: Sequence[Mapping[str, float]]) -> float:
    """Time from the first step to the last, evaluations between them included, however often the run was cut short."""
    total, last = 0.0, 0.0
    for line in metrics:
        if is_number(line.get("time/step")):
            total += (line["step"] - last) * line["time/step"]
            last = line["step"]
    return total
