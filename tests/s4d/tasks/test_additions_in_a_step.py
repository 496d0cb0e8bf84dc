"""Steps with everything on that the method itself lacks: nothing waits for the device, and a replay gives the same."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from engine.captured import PLAIN_FIRST, Captured
from engine.compute import Plain
from engine.first_bad import tensors_in
from engine.half import HalfForward
from s4d.config import Config
from s4d.data.batch import PackedBatch
from s4d.tasks.finetune import FinetuneTask
from s4d.tasks.pretrain import PretrainTask

# The stand-ins lie beside the tests of the engine, the list of waiting ops beside those of the kernels.
sys.path.append(str(Path(__file__).resolve().parents[2] / "engine"))
sys.path.append(str(Path(__file__).resolve().parents[2] / "kernels"))

from launch_counting import WAITING
from one_rank_engine import OneRankEngine, runtime, weights
from recorded_ops import OpRecorder

CPU = torch.device("cpu")
WEIGHTS = {"image": 0.3, "video": 0.7}
CLASSES = {"faces": ("a", "b", "c"), "clips": ("p", "c", "b", "s")}
PRIORS = {"faces": (0.7, 0.2, 0.1), "clips": (0.1, 0.2, 0.3, 0.4)}
MASKED = {"image": 2, "video": 5}
# Rows that do not wait for the device, as on a GPU.
BACKENDS = {"attention": "grouped", "moae": "grouped", "patch": "gather", "reconstruction": "fused"}
STEPS = 4


@pytest.fixture
def task_with_all(config_of: Callable[..., Config]) -> Callable[..., Any]:
    def build(name: str, precision: str = "fp32") -> Any:
        engine = {"steps": STEPS, "zero_stage": 0, "precision": precision, "backends": BACKENDS}
        if name == "pretrain":
            config = config_of(name, engine=engine, loss={"motion": 0.5})
            return PretrainTask(config, WEIGHTS, {}, rank=0, world_size=1, device=CPU)
        config = config_of(
            name,
            engine=engine,
            moae={"modality_prior": True, "shared_experts": 1},
            loss={"logit_adjustment": 1.0, "static_distillation": 0.5, "cross_labels": 0.5},
        )
        return FinetuneTask(config, WEIGHTS, CLASSES, rank=0, world_size=1, device=CPU, class_priors=PRIORS)

    return build


def numbered(batch_of: Callable[..., PackedBatch], name: str, number: int) -> PackedBatch:
    samples = range(2 * number, 2 * number + 2)
    own: dict[str, Any] = {"masked": MASKED} if name == "pretrain" else {"drop_path": 0.3}
    return batch_of(images=samples, clips=samples, **own)


class Seen(TorchDispatchMode):
    """Names of the ops below autograd; boolean indexing counts as what it waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        indices = args[1] if func._schema.name in {"aten::index", "aten::index_put"} else ()
        waits = any(index is not None and index.dtype == torch.bool for index in indices)
        self.names.add("nonzero" if waits else func._schema.name.removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["pretrain", "finetune"])
def test_nothing_waits_and_nothing_is_drawn(
    name: str, task_with_all: Callable[..., Any], batch_of: Callable[..., PackedBatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S4D_MOAE_PLAN_BACKEND", "portable")
    task, batch, before = task_with_all(name), numbered(batch_of, name, 0), torch.get_rng_state()
    with Seen() as seen:
        task.forward(task.module, batch, task.begin_step(task.module, [batch])).loss.backward()
    assert len(seen.names) > 20 and not seen.names & WAITING
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["pretrain", "finetune"])
def test_a_replay_gives_the_same(
    name: str, precision: str, task_with_all: Callable[..., Any], batch_of: Callable[..., PackedBatch]
) -> None:
    found = []
    for captured in (False, True):
        task = task_with_all(name, precision)
        engine = OneRankEngine(HalfForward(task.module) if precision == "bf16" else task.module)
        compute: Any = Plain(engine, task, runtime(), reason="as wanted")
        if captured:
            compute = Captured(engine, task, runtime(), recorder=OpRecorder(), insist=True)
        results = []
        for number in range(STEPS):
            batches = [numbered(batch_of, name, number)]
            results.append(compute(batches, task.begin_step(engine, batches)))
            engine.step()
        assert compute.replayed_steps == (STEPS - PLAIN_FIRST if captured else 0)
        found.append((weights(engine), [tensor for _, tensor in tensors_in(results)]))
    (plain, outcomes), (replayed, again) = found
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(plain, replayed, strict=True))
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(outcomes, again, strict=True))
