"""A small model, its task and its data: everything the engine needs, nothing of the project's own method."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

GLOBAL_BATCH = 8
FEATURES = 7


class TinyModule(nn.Module):
    """Odd sizes, so that flat slices need padding; a bare parameter; a buffer that is saved and one that is not."""

    table: Tensor

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.stem = nn.Linear(FEATURES, width)
        self.norm = nn.LayerNorm(width)
        self.head = Scaled(width)
        self.register_buffer("table", torch.arange(3.0))
        self.register_buffer("unsaved", torch.ones(2), persistent=False)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3 + 0.01)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = self.norm(torch.tanh(self.stem(x.to(self.stem.weight.dtype))))
        return {"prediction": self.head(hidden) + self.table.to(hidden.dtype)}


class Scaled(nn.Module):
    """A linear map and a bare parameter owned by the module that uses it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 3)
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, hidden: Tensor) -> Tensor:
        return self.linear(hidden) * self.scale


@dataclass(frozen=True, kw_only=True, slots=True)
class TinyBatch:
    x: Tensor
    y: Tensor
    sample_ids: tuple[str, ...] = ()

    def to(self, device: torch.device) -> TinyBatch:
        return TinyBatch(x=self.x.to(device), y=self.y.to(device), sample_ids=self.sample_ids)

    def row_owners(self, rows: int) -> Tensor | None:
        return torch.arange(rows) if rows == len(self.sample_ids) else None

    def store(self) -> tuple[dict[str, Tensor], Any]:
        return {"x": self.x, "y": self.y}, {"sample_ids": self.sample_ids}


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    loss: Tensor
    parts: dict[str, Tensor]
    metrics: dict[str, Tensor]


class TinyTask:
    """Squared error over the whole step's samples, in two parts."""

    num_layers = 2
    forward_has_collectives = False

    def __init__(self, width: int = 5, poison_step: int | None = None) -> None:
        self.module: nn.Module = TinyModule(width)
        self.poison_step = poison_step
        self.forwards = 0
        self.finished: list[str] = []

    def begin_step(self, module: nn.Module, batches: list[Any]) -> None:
        return None

    def forward(self, module: nn.Module, batch: TinyBatch, statistics: None) -> Result:
        error = (module(batch.x)["prediction"].float() - batch.y).square()
        parts = {"loss/image": error[:, :1].sum() / GLOBAL_BATCH, "loss/video": error[:, 1:].sum() / GLOBAL_BATCH}
        loss = parts["loss/image"] + parts["loss/video"]
        self.forwards += 1
        if self.forwards == self.poison_step:
            loss = loss * float("nan")
        detached = {name: part.detach() for name, part in parts.items()}
        return Result(loss=loss, parts=detached, metrics={"share": error.detach().mean(0) / GLOBAL_BATCH})

    def evaluate(self, module: nn.Module, split: str) -> dict[str, float]:
        with torch.no_grad():
            prediction = module(torch.ones(2, FEATURES))["prediction"]
        return {f"{split}.mean": float(prediction.float().mean())}

    def finish(self, module: nn.Module, run_dir: Path, weights: str) -> dict[str, float]:
        scores = self.evaluate(module, weights)
        if not torch.distributed.get_rank():
            (run_dir / f"finish-{weights}.txt").write_text(f"{scores}\n")
        return scores

    def describe(self) -> dict[str, Any]:
        return {"stage": "tiny"}

    def layer_of(self, parameter_name: str) -> int | None:
        return 0 if parameter_name.startswith("stem") else None

    def lr_multiplier(self, parameter_name: str) -> float:
        return 2.0 if parameter_name.startswith("head") else 1.0


class UnreadableError(Exception):
    """Stands for a user's error of another package."""

    exit_code = 1


class TinyBatches:
    """Step s of any world size and accumulation splits the same eight samples."""

    def __init__(
        self, *, rank: int, world_size: int, accumulation: int, total_steps: int, broken_step: int | None = None
    ) -> None:
        self.rank, self.world_size, self.accumulation = rank, world_size, accumulation
        self.total_steps = total_steps
        self.broken_step = broken_step
        self.handed_out = 0

    @property
    def samples_per_step(self) -> dict[str, int]:
        return {"image": GLOBAL_BATCH}

    def steps(self, start: int) -> Iterator[list[TinyBatch]]:
        size = GLOBAL_BATCH // (self.world_size * self.accumulation)
        for step in range(start, self.total_steps):
            if step == self.broken_step:
                raise UnreadableError("clip.mp4: cannot be decoded")
            generator = torch.Generator().manual_seed(1000 + step)
            x = torch.randn(GLOBAL_BATCH, FEATURES, generator=generator)
            y = torch.randn(GLOBAL_BATCH, 3, generator=generator)
            offsets = [(micro * self.world_size + self.rank) * size for micro in range(self.accumulation)]
            self.handed_out += 1
            ids = [f"{step}-{sample}.jpg" for sample in range(GLOBAL_BATCH)]
            yield [
                TinyBatch(x=x[at : at + size], y=y[at : at + size], sample_ids=tuple(ids[at : at + size]))
                for at in offsets
            ]

    def fingerprints(self) -> dict[str, str | None]:
        return {}

    def counters(self) -> dict[str, int]:
        return {"data/handed_out": self.handed_out}

    def close(self) -> None:
        pass


def tiny_config(run_dir: Path, **changes: Any) -> Any:
    """A configuration with every field the engine reads; `changes` names fields of any section."""
    engine = {
        "zero_stage": 0,
        "offload": "none",
        "precision": "fp32",
        "step_graph": "auto",
        "recompute": 0.0,
        "log_every": 1,
        "save_every": 3,
        "keep_last": 9,
        "eval_every": 2,
    }
    engine |= {"keep_every": None, "keep_best": None, "save_failures": 0, "skip_nonfinite": 0}
    optim = {
        "lr": 0.05,
        "reference_batch": None,
        "min_lr": 0.001,
        "warmup_lr": 0.0,
        "warmup_share": 0.3,
        "betas": (0.9, 0.95),
        "eps": 1e-8,
        "weight_decay": 0.05,
        "decay_rule": "matrices",
        "layer_decay": 0.75,
        "max_grad_norm": 1.0,
        "ema": 0.9,
    }
    batch = {"per_step": {"all": GLOBAL_BATCH}, "accumulation": 1}
    for section in (engine, optim, batch):
        section.update({name: value for name, value in changes.items() if name in section})
    seed = changes.get("seed", 0)
    return SimpleNamespace(
        run_dir=str(run_dir),
        seed=seed,
        settings=lambda: {"seed": {"value": seed, "default": 0, "free": False}},
        engine=SimpleNamespace(**engine),
        optim=SimpleNamespace(**optim),
        batch=SimpleNamespace(**batch),
    )
