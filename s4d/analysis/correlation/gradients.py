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

from s4d.analysis.correlation.agreement import Agreement, Products, agreement, total
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
    """The runs compared on at most `batches` of each task at every checkpoint, drawn by `seed`."""

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

    At most `batches` (even) are taken of each task, of at most `samples` of each source. UsageError for runs without
    both modalities, DataError for checkpoints that cannot be read or do not fit.
    """
    if batches < 2 or batches % 2:
        raise UsageError(f"batches: expected an even number from 2 on, got {batches}")
    if samples < 1:
        raise UsageError(f"samples: expected at least 1, got {samples}")
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    drawn_of = [PairedBatches(_config(run, seed), batches // 2, samples) for run in runs]
    kept = [checkpoints(run) for run in runs]
    work = sum(drawn.pairs * len(folders) for drawn, folders in zip(drawn_of, kept, strict=True))
    done, found = 0, []
    for name, drawn, folders in zip(names or run_names(runs), drawn_of, kept, strict=True):
        config = drawn.config
        # Older checkpoints do not state their loss weights, which are not used here.
        described = read_config(folders[0]) | {"loss_weights": dict.fromkeys(MODALITIES, 1.0)}
        task = restore_task(config, described, device=device)
        assert isinstance(task, FinetuneTask)
        pairs, checked = list(drawn), []
        for folder in folders:
            _load(task, folder)
            table = GradientTable()
            for pair in pairs:
                table.add(_gradients(task, pair))
                done += 1
                progress(done, work)
            checked.append(summarise(step_of(folder), table.products()))
        found.append(RunGradients(run=name, mode=config.mode, samples=drawn.samples, checkpoints=tuple(checked)))
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


class GradientTable:
    """Inner products of gradients by part, in float64; holds no gradients but their sums. Heads are left out."""

    def __init__(self) -> None:
        self._pairs: dict[Part, list[NDArray[np.float64]]] = {}
        self._sums: dict[str, Tensor] = {}

    def add(self, pair: Sequence[Mapping[str, Tensor]]) -> None:
        """Count the gradients of one pair of batches of each task, in the order of PLACES."""
        tables: dict[Part, NDArray[np.float64]] = {}
        for name in pair[0]:
            part = shared_part(name)
            if part is not None:
                rows = torch.stack([gradient[name] for gradient in pair]).flatten(1)
                tables[part] = tables.get(part, 0.0) + _inner(rows)
                both = rows.view(2, 2, -1).sum(1)
                self._sums[name] = self._sums[name] + both if name in self._sums else both
        for part, table in tables.items():
            self._pairs.setdefault(part, []).append(table)

    def products(self) -> dict[Part, Products]:
        """Of all pairs so far."""
        sums = {part: np.zeros((2, 2)) for part in self._pairs}
        for name, rows in self._sums.items():
            part = shared_part(name)
            assert part is not None
            sums[part] += _inner(rows)
        return {part: Products(np.stack(tables), sums[part]) for part, tables in self._pairs.items()}


def _inner(rows: Tensor) -> NDArray[np.float64]:
    values: NDArray[np.float64] = (rows.double() @ rows.double().T).cpu().numpy()
    return values


def summarise(step: int, products: Mapping[Part, Products]) -> CheckpointGradients:
    """Agreement at one checkpoint, of every part and of the layers and kinds that they make up."""
    layers = layer_order({part.layer for part in products})
    kinds = [kind for kind in KINDS if any(part.kind == kind for part in products)]

    def of(*, layer: str | None = None, kind: str | None = None) -> Agreement:
        chosen = (
            found for part, found in products.items() if layer in (None, part.layer) and kind in (None, part.kind)
        )
        return agreement(total(list(chosen)))

    parts = sorted(products, key=lambda part: (layers.index(part.layer), kinds.index(part.kind)))
    return CheckpointGradients(
        step=step,
        shared=of(),
        layers={layer: of(layer=layer) for layer in layers},
        kinds={kind: of(kind=kind) for kind in kinds},
        parts={part: agreement(products[part]) for part in parts},
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
