"""What training would take for each op on this machine with `auto`, asked of the code that chooses in training.

Calls are those of the default model and engine, described and not made: no kernel is started.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from engine.param_groups import build_optimizer
from engine.runtime import choose_device
from kernels import attention, moae, patch, reconstruction
from kernels.backends import Backend, BackendRefusedError, environment_variable, resolve
from kernels.moae import plan
from s4d.config import EngineConfig, ModelConfig, OptimConfig
from s4d.data import backends, resample
from s4d.models import compiled
from s4d.models.sizes import architecture

# Values of engine.precision, the default first.
PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}
MANY_CLIPS = 16

Candidates = tuple[dict[str, Backend], dict[str, object]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The backend of an op in one case, None if a run would refuse to start; why this one, and the ones before it."""

    op: str
    case: str
    backend: str | None
    why: str


def choose_all() -> dict[str, Any]:
    """Device, what ranks reduce with, and the choice for every op and case, in the order of a step."""
    device, between_ranks = choose_device()
    choices = [*_data(device), *_ops(device), *_optimizer(device)]
    return {"device": device, "between_ranks": between_ranks, "ops": [asdict(choice) for choice in choices]}


def cases(device: str) -> Iterator[tuple[str, str, Candidates]]:
    """Every op of the kernel registry in the cases that its choice depends on: op, case, and its candidates."""
    model = architecture(ModelConfig(), experts=True)
    experts = model.experts
    assert experts is not None
    head_dim, clip = model.embed_dim // model.num_heads, model.tokens("video")
    for precision, dtype in PRECISIONS.items():
        pixels: dict[str, Any] = {"device": device, "dtype": dtype, "pixels": torch.uint8, "pixel_gradient": False}
        yield "patch", precision, patch.candidates(**pixels)
        for modality in ("image", "video"):
            length = model.tokens(modality)
            table = attention.candidates(
                device=device, dtype=dtype, head_dim=head_dim, max_seqlen=length, layout_known=True
            )
            yield "attention", f"{precision} ({length} tokens a sample)", table
        for clips in (1, MANY_CLIPS):
            table = moae.candidates(
                device=device,
                dtype=dtype,
                tokens=clips * clip,
                width=model.embed_dim,
                num_experts=experts.num_experts,
                top_k=experts.top_k,
            )
            yield "moae", f"{precision} ({clips * clip} tokens)", table
        yield "reconstruction", precision, reconstruction.candidates(**pixels)
    yield "moae_plan", "", plan.candidates(device=device)
    for stage in (EngineConfig.model_fields["zero_stage"].default, 3):
        yield "blocks", f"ZeRO {stage}", compiled.candidates(device=device, zero_stage=stage)


def _ops(device: str) -> list[Choice]:
    found = [_chosen(op, case, *candidates) for op, case, candidates in cases(device)]
    order = list(dict.fromkeys(choice.op for choice in found))
    return sorted(found, key=lambda choice: order.index(choice.op))


def _chosen(op: str, case: str, table: Mapping[str, Backend], facts: dict[str, object]) -> Choice:
    variable = environment_variable(op)
    asked = f"{variable} asks for it" if os.environ.get(variable) else ""
    try:
        row = resolve(op, table, None, **facts)
    except BackendRefusedError as error:
        return Choice(op=op, case=case, backend=None, why=f"{asked}: {error}")
    before = list(table)[: list(table).index(row.name)]
    reasons = ", ".join(f"not {name} ({table[name].refuse(facts)})" for name in before)
    return Choice(op=op, case=case, backend=row.name, why=asked or reasons or "first choice")


def _data(device: str) -> list[Choice]:
    measured = f"each run times {', '.join(backends.BACKENDS)} on its own first files and takes the fastest"
    found = []
    for case, cached in (("files", False), ("cached frames", True)):
        name, why = backends.without_measuring(device, cached=cached) or ("measured", measured)
        found.append(Choice(op="decoding", case=case, backend=name, why=why))
    name, why = resample.choose()
    return [*found, Choice(op="crop and resize", case="of what PyAV and Pillow decode", backend=name, why=why)]


class _Task:
    """The least that an optimizer is built for."""

    num_layers = 1

    def __init__(self, device: str) -> None:
        self.module = nn.Linear(1, 1, device=device)
        self.layer_of: Callable[[str], int | None] = lambda name: None
        self.lr_multiplier: Callable[[str], float] = lambda name: 1.0


def _optimizer(device: str) -> list[Choice]:
    found = []
    for case, sharded in (("ZeRO 0", False), ("ZeRO 1 to 3", True)):
        built = build_optimizer(_Task(device), OptimConfig(lr=1.0), sharded=sharded)  # type: ignore[arg-type]
        kind = "fused, nothing is compiled" if built.defaults["fused"] else "one op after the other"
        found.append(Choice(op="optimizer", case=case, backend=type(built).__name__, why=kind))
    return found
