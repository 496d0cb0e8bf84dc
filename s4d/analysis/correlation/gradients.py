"""Do the tasks pull the shared weights the same way? Cosines of their gradients at the checkpoints of runs.

At every checkpoint that a run kept, the gradient of the images' loss and that of the clips' loss are taken on the same
fixed batches, each task's own loss alone: without loss weights and without the load-balance term.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from s4d.analysis.correlation.agreement import Agreement, agreement
from s4d.analysis.correlation.gradient_batches import PLACES, PairedBatches
from s4d.analysis.correlation.parameter_kinds import KINDS, Part, layer_order, shared_part
from s4d.analysis.correlation.run_names import run_names
from s4d.config import Config, load
from s4d.data.batch import MODALITIES, PackedBatch
from s4d.errors import DataError, UsageError
from s4d.models.folder import CONFIG_FILE, MODEL_FILE, read_config, read_tensors
from s4d.tasks import restore_task
from s4d.tasks.finetune import FinetuneTask

BATCHES = 8
SAMPLES = 32

Products = dict[Part, NDArray[np.float64]]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointGradients:
    """Agreement at one step: of all shared weights, and by layer, by kind, and by kind within each layer."""

    step: int
    shared: Agreement
    layers: dict[str, Agreement]
    kinds: dict[str, Agreement]
    parts: dict[Part, Agreement]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "step": self.step,
            "shared": self.shared.to_dict(),
            "layers": {name: found.to_dict() for name, found in self.layers.items()},
            "kinds": {name: found.to_dict() for name, found in self.kinds.items()},
            "parts": [{**part._asdict(), **found.to_dict()} for part, found in self.parts.items()],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class RunGradients:
    """One run: `mode` is multitask or moae, `samples` those of each source in a batch."""

    run: str
    mode: str
    samples: dict[str, int]
    checkpoints: tuple[CheckpointGradients, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        checkpoints = [item.to_dict() for item in self.checkpoints]
        return {"run": self.run, "mode": self.mode, "samples": self.samples, "checkpoints": checkpoints}


@dataclass(frozen=True, kw_only=True, slots=True)
class GradientStudy:
    """The runs compared; `batches` of each task at every checkpoint, drawn by `seed`."""

    runs: tuple[RunGradients, ...]
    batches: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"batches": self.batches, "seed": self.seed, "runs": [run.to_dict() for run in self.runs]}


def gradient_study(
    runs: Sequence[Path],
    *,
    batches: int = BATCHES,
    samples: int = SAMPLES,
    seed: int = 0,
    names: Sequence[str] = (),
    device: torch.device | None = None,
    progress: Progress = lambda done, total: None,
) -> GradientStudy:
    """Gradients at all kept checkpoints of fine-tuning runs with images and clips; `names` are what to call the runs.

    `batches` (even) are of each task, of at most `samples` of each source. UsageError for runs without both
    modalities, DataError for checkpoints that cannot be read or do not fit.
    """
    if batches < 2 or batches % 2:
        raise UsageError(f"batches: expected an even number from 2 on, got {batches}")
    if samples < 1:
        raise UsageError(f"samples: expected at least 1, got {samples}")
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    configs = [_config(run, seed) for run in runs]
    kept = [checkpoints(run) for run in runs]
    total, done, found = sum(map(len, kept)) * batches // 2, 0, []
    for name, config, folders in zip(names or run_names(runs), configs, kept, strict=True):
        drawn = PairedBatches(config, batches // 2, samples)
        task = restore_task(config, read_config(folders[0]), device=device)
        assert isinstance(task, FinetuneTask)
        tables: list[list[Products]] = [[] for _ in folders]
        for pair in drawn:
            for folder, table in zip(folders, tables, strict=True):
                _load(task, folder)
                table.append(inner_products(_gradients(task, pair)))
                done += 1
                progress(done, total)
        measured = zip(folders, tables, strict=True)
        found.append(
            RunGradients(
                run=name,
                mode=config.mode,
                samples=drawn.samples,
                checkpoints=tuple(summarise(step_of(folder), table) for folder, table in measured),
            )
        )
    return GradientStudy(runs=tuple(found), batches=batches, seed=seed)


def checkpoints(run: Path) -> list[Path]:
    """Folders of the checkpoints that a run has, in order of their steps; DataError if it has none."""
    found = [path for path in (run / "checkpoints").glob("step-*") if (path / MODEL_FILE).is_file()]
    named = [path for path in found if path.name.removeprefix("step-").isdecimal()]
    if not named:
        raise DataError(f"{run / 'checkpoints'}: holds no checkpoint with a {MODEL_FILE}")
    return sorted(named, key=step_of)


def step_of(checkpoint: Path) -> int:
    """Step in the name of a checkpoint folder."""
    return int(checkpoint.name.removeprefix("step-"))


def inner_products(gradients: Sequence[Mapping[str, Tensor]]) -> Products:
    """Tables (n, n) of inner products of n gradients by part, in float64; heads are left out."""
    tables: Products = {}
    for name, first in gradients[0].items():
        part = shared_part(name)
        if part is not None:
            rows = torch.stack([first, *(other[name] for other in gradients[1:])]).flatten(1).double()
            tables[part] = tables.get(part, 0.0) + (rows @ rows.T).cpu().numpy()
    return tables


def summarise(step: int, pairs: Sequence[Products]) -> CheckpointGradients:
    """Agreement at one checkpoint; inner products of a layer or kind are the sums of those of its parts."""
    tables = {part: np.stack([pair[part] for pair in pairs]) for part in pairs[0]}
    layers = layer_order({part.layer for part in tables})
    kinds = [kind for kind in KINDS if any(part.kind == kind for part in tables)]

    def total(*, layer: str | None = None, kind: str | None = None) -> Agreement:
        chosen = [table for part, table in tables.items() if layer in (None, part.layer) and kind in (None, part.kind)]
        return agreement(np.sum(chosen, axis=0))

    parts = sorted(tables, key=lambda part: (layers.index(part.layer), kinds.index(part.kind)))
    return CheckpointGradients(
        step=step,
        shared=total(),
        layers={layer: total(layer=layer) for layer in layers},
        kinds={kind: total(kind=kind) for kind in kinds},
        parts={part: agreement(tables[part]) for part in parts},
    )


def _config(run: Path, seed: int) -> Config:
    """The run's configuration for one process, its own loss alone, with draws that depend on the study's seed."""
    config = load(
        run / "config.yaml",
        [
            "model.init_from=null",
            "batch.accumulation=1",
            "model.moae.balance_weight=0",
            "engine.backends.blocks=plain",
            f"seed={seed}",
        ],
    )
    if config.task != "finetune":
        raise UsageError(f"{run}: a {config.task} run has no tasks to compare")
    present = {source.modality for source in config.data.sources}
    missing = [modality for modality in MODALITIES if modality not in present]
    if missing:
        raise UsageError(f"{run}: trains on no {missing[0]} source, so there is no second gradient to compare")
    return config


def _load(task: FinetuneTask, folder: Path) -> None:
    try:
        task.module.load_state_dict(read_tensors(folder))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise DataError(f"{folder / MODEL_FILE}: does not fit {folder / CONFIG_FILE}: {reason}") from error


def _gradients(task: FinetuneTask, batches: Sequence[PackedBatch]) -> list[dict[str, Tensor]]:
    """Gradient of each batch's own loss, in the order of PLACES."""
    task.module.train()
    return [
        task_gradient(task, batch.to(task.device), modality)
        for batch, (modality, _) in zip(batches, PLACES, strict=True)
    ]


def task_gradient(task: FinetuneTask, batch: PackedBatch, modality: str) -> dict[str, Tensor]:
    """Gradient of one modality's loss by parameter name; zeros where it does not reach."""
    task.weights = {name: float(name == modality) for name in MODALITIES}
    task.module.zero_grad(set_to_none=True)
    task.forward(task.module, batch).loss.backward()
    gradients = {}
    for name, parameter in task.module.named_parameters():
        gradients[name] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.detach()
        parameter.grad = None
    return gradients
