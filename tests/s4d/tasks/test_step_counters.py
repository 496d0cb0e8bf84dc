"""What one small training step costs, counted exactly: launches, ops, waits, memory.

The numbers stand in `step_counters.json` beside this file; `S4D_WRITE_COUNTERS=1 pytest` with this file writes them
anew, so that a change of the program's work is seen, and stated, in its diff. Bytes of messages at every ZeRO stage are
compared with `engine.footprint` in `tests/zero/test_zero_footprint.py`.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kernels.bench.memory import measure_memory
from kernels.bench.records import Run
from s4d.config import Config
from s4d.data.batch import PackedBatch
from s4d.tasks.finetune import FinetuneTask
from s4d.tasks.pretrain import PretrainTask

# The counter of launches lies beside the tests of the kernels.
sys.path.append(str(Path(__file__).resolve().parents[2] / "kernels"))

from launch_counting import WAITING, counting

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="counts what a machine without a GPU chooses")

CPU = torch.device("cpu")
WEIGHTS = {"image": 0.3, "video": 0.7}
CLASSES = {"faces": ("a", "b", "c"), "clips": ("p", "q", "r", "s")}
MASKED = {"image": 2, "video": 5}
TASKS = ("pretrain", "finetune")
# Rows that every machine has, so that the counts are those of every machine.
PORTABLE = {"attention": "grouped", "moae": "grouped", "patch": "gather", "reconstruction": "fused"}
TRITON = dict.fromkeys(PORTABLE, "triton")

FILE = Path(__file__).with_name("step_counters.json")
# Bytes by which the peak may differ: torch's allocator is asked for the same sizes every time.
MEMORY_SLACK = 64

Step = tuple[Callable[[], Tensor], list[Tensor]]


@pytest.fixture
def step_of(
    config_of: Callable[..., Config], batch_of: Callable[..., PackedBatch], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, Mapping[str, str]], Step]:
    """The loss of a task's step in float32 on two images and two clips, and the weights it is derived by."""
    monkeypatch.setenv("S4D_MOAE_PLAN_BACKEND", "portable")

    def build(name: str, backends: Mapping[str, str]) -> Step:
        config = config_of(name, engine={"steps": 1, "precision": "fp32", "backends": dict(backends)})
        kind: Any = PretrainTask if name == "pretrain" else FinetuneTask
        classes = {} if name == "pretrain" else CLASSES
        task = kind(config, WEIGHTS, classes, rank=0, world_size=1, device=CPU)
        batch = batch_of(masked=MASKED) if name == "pretrain" else batch_of(drop_path=0.1)

        def loss() -> Tensor:
            result: Tensor = task.forward(task.module, batch, task.begin_step(task.module, [batch])).loss
            return result

        return loss, list(task.module.parameters())

    return build


class Dispatched(TorchDispatchMode):
    """Ops below autograd by name, a custom op as one, boolean indexing marked as what it waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        indices = args[1] if name in {"index", "index_put", "index_put_"} else ()
        if any(index is not None and index.dtype == torch.bool for index in indices):
            name = "nonzero"
        self.ops[name] += 1
        return func(*args, **(kwargs or {}))


def dispatched(step: Step) -> dict[str, Counter[str]]:
    """Ops of the second step, forward and backward: the first makes choices and tables that stay."""
    loss, leaves = step
    torch.autograd.grad(loss(), leaves)
    with Dispatched() as forward:
        value = loss()
    with Dispatched() as backward:
        torch.autograd.grad(value, leaves)
    return {"forward": forward.ops, "backward": backward.ops}


def launched(step: Step) -> dict[str, Counter[str]]:
    """Launches of Triton kernels by name, none of which runs, and the ops that made the host wait."""
    loss, leaves = step
    with counting() as started:
        value = loss()
        found = {"forward": Counter(started.kernels), "waits": Counter(started.waits)}
        started.restart()
        torch.autograd.grad(value, leaves, torch.ones(()))
        found |= {"backward": Counter(started.kernels)}
        found["waits"].update(started.waits)
    return found


def written(name: str, key: str, found: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """The numbers of the file for one task, which are `found` itself when they are to be written anew."""
    numbers: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    if os.environ.get("S4D_WRITE_COUNTERS") == "1":
        numbers.setdefault(name, {})[key] = {part: dict(sorted(counts.items())) for part, counts in found.items()}
        FILE.write_text(json.dumps(numbers, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    entry: dict[str, dict[str, int]] = numbers[name][key]
    return entry


def changes(stated: Mapping[str, int], found: Mapping[str, int]) -> str:
    """What is more or less than the file says, for the message of a failed test."""
    names = sorted(stated.keys() | found.keys())
    moved = {name: found.get(name, 0) - stated.get(name, 0) for name in names}
    listed = ", ".join(f"{name} {stated.get(name, 0)} -> {found.get(name, 0)}" for name in names if moved[name])
    return f"{sum(stated.values())} are stated, {sum(found.values())} were counted: {listed or 'all alike'}"


@pytest.mark.parametrize("name", TASKS)
def test_triton_launches(name: str, step_of: Callable[..., Step]) -> None:
    found = launched(step_of(name, TRITON))
    assert not found.pop("waits")
    stated = written(name, "launches", found)
    for part, counts in found.items():
        assert counts == stated[part], f"launches, {part}: {changes(stated[part], counts)}"


@pytest.mark.parametrize("name", TASKS)
def test_ops_on_a_cpu(name: str, step_of: Callable[..., Step]) -> None:
    """No more than stated: on a small step the host's work for each op is what its time is made of."""
    found = dispatched(step_of(name, PORTABLE))
    assert not WAITING & {op for counts in found.values() for op in counts}, "the host waits for values"
    stated = written(name, "ops", found)
    for part, counts in found.items():
        assert sum(counts.values()) <= sum(stated[part].values()), f"ops, {part}: {changes(stated[part], counts)}"


@pytest.mark.parametrize("name", TASKS)
def test_memory_of_a_step(name: str, step_of: Callable[..., Step]) -> None:
    """The peak above weights and batch, gradients included, and what the forward keeps for the backward."""
    loss, leaves = step_of(name, PORTABLE)
    torch.autograd.grad(loss(), leaves)
    run = Run(forward=lambda: (loss(),), leaves=tuple(leaves), upstream=(torch.ones(()),), results=lambda o, g: {})
    memory = measure_memory(run, CPU)
    found = {"bytes": {"held": memory.held, "peak": memory.peak}}
    stated = written(name, "memory", found)["bytes"]
    close = all(abs(found["bytes"][key] - stated[key]) <= MEMORY_SLACK for key in stated)
    assert close, f"bytes: {changes(stated, found['bytes'])}"


@pytest.mark.parametrize("backends", [PORTABLE, dict.fromkeys(PORTABLE, "reference")], ids=["portable", "reference"])
def test_the_counters_see_more_work_and_waiting(backends: Mapping[str, str], step_of: Callable[..., Step]) -> None:
    """A step with one more op, and one that reads a value, are told from the step itself."""
    loss, leaves = step_of("pretrain", backends)

    def more() -> Tensor:
        value = loss()
        return value * float(value.detach().cos())

    plain, found = dispatched((loss, leaves)), dispatched((more, leaves))
    text = changes(plain["forward"], found["forward"])
    assert sum(found["forward"].values()) > sum(plain["forward"].values())
    assert "cos 0 -> 1" in text and "_local_scalar_dense 0 -> 1" in text
    assert "all alike" in changes(plain["forward"], plain["forward"])
