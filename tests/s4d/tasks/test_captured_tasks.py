"""Steps of the real tasks replayed op by op are those of the tasks themselves, to the bit."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.captured import PLAIN_FIRST, Captured
from engine.compute import Plain
from engine.first_bad import tensors_in
from engine.half import HalfForward
from engine.inputs import form_of
from kernels.patch import Erase, Mix
from s4d.config import Config
from s4d.data.batch import PackedBatch
from s4d.models.vit import imagenet_statistics
from s4d.tasks.finetune import FinetuneTask
from s4d.tasks.pretrain import PretrainTask

# The stand-ins lie beside the tests of the engine.
sys.path.append(str(Path(__file__).resolve().parents[2] / "engine"))

from one_rank_engine import OneRankEngine, runtime, weights
from recorded_ops import OpRecorder, address

CPU = torch.device("cpu")
WEIGHTS = {"image": 0.3, "video": 0.7}
CLASSES = {"faces": ("a", "b", "c"), "clips": ("p", "q", "r", "s")}
MASKED = {"image": 2, "video": 5}
# Rows that do not wait for the device, as on a GPU.
BACKENDS = {"attention": "grouped", "moae": "grouped", "patch": "gather", "reconstruction": "fused"}
STEPS = 5

Steps = Sequence[list[PackedBatch]]


@pytest.fixture
def task_on(config_of: Callable[..., Config]) -> Callable[..., Any]:
    def build(name: str, accumulation: int, precision: str) -> Any:
        config = config_of(
            name,
            engine={"steps": STEPS, "zero_stage": 0, "precision": precision, "backends": BACKENDS},
            batch={"per_step": {"faces": 4, "clips": 4}, "accumulation": accumulation},
        )
        kind: Any = PretrainTask if name == "pretrain" else FinetuneTask
        return kind(config, WEIGHTS, CLASSES if name == "finetune" else {}, rank=0, world_size=1, device=CPU)

    return build


def train(task: Any, steps: Steps, accumulation: int, precision: str, recorder: OpRecorder | None) -> dict[str, Any]:
    """What a few steps leave: weights, moments, and the results of each step."""
    module = HalfForward(task.module) if precision == "bf16" else task.module
    engine = OneRankEngine(module, accumulation)
    compute = Plain(engine, task, runtime(), reason="as wanted")
    if recorder is not None:
        compute = Captured(engine, task, runtime(), recorder=recorder, insist=True)
    results = []
    for batches in steps:
        results.append(compute(batches, task.begin_step(engine, batches)))
        engine.step()
    return {"state": weights(engine), "results": results, "replayed": compute.replayed_steps}


def assert_equal(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for mine, theirs in zip(found["state"], wanted["state"], strict=True):
        assert torch.equal(mine, theirs)
    for mine, theirs in zip(tensors_in(found["results"]), tensors_in(wanted["results"]), strict=True):
        assert mine[0] == theirs[0] and torch.equal(mine[1], theirs[1]), mine[0]


def numbered(batch_of: Callable[..., PackedBatch], name: str, number: int, **more: Any) -> PackedBatch:
    """Another two images and clips for every number; noise, masks and drop path are other ones too."""
    own = {"masked": MASKED} if name == "pretrain" else {"drop_path": 0.3}
    samples = range(2 * number, 2 * number + 2)
    return batch_of(images=samples, clips=samples, **{**own, **more})


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("name", ["pretrain", "finetune"])
def test_replayed_steps_are_the_plain_ones(
    name: str, accumulation: int, precision: str, task_on: Callable[..., Any], batch_of: Callable[..., PackedBatch]
) -> None:
    counts = {"image": 2 * accumulation, "video": 2 * accumulation}
    steps = [
        [numbered(batch_of, name, accumulation * step + part, step_samples=counts) for part in range(accumulation)]
        for step in range(STEPS)
    ]
    wanted = train(task_on(name, accumulation, precision), steps, accumulation, precision, None)
    recorder = OpRecorder()
    found = train(task_on(name, accumulation, precision), steps, accumulation, precision, recorder)
    assert_equal(found, wanted)
    assert found["replayed"] == STEPS - PLAIN_FIRST and len(recorder.tapes) == accumulation


@pytest.mark.parametrize("name", ["pretrain", "finetune"])
def test_forms_that_take_turns_share_gradients(
    name: str, task_on: Callable[..., Any], batch_of: Callable[..., PackedBatch]
) -> None:
    """As where steps alternate between modalities, of which one leaves some parameters without a gradient."""

    def alternating(step: int) -> PackedBatch:
        own = {"masked": MASKED} if name == "pretrain" else {}
        samples, none = range(2 * step, 2 * step + 2), range(0)
        images, clips = (samples, none) if step % 2 == 0 else (none, samples)
        return batch_of(images=images, clips=clips, **own)

    steps = [[alternating(step)] for step in range(2 * STEPS)]
    wanted = train(task_on(name, 1, "fp32"), steps, 1, "fp32", None)
    recorder = OpRecorder()
    found = train(task_on(name, 1, "fp32"), steps, 1, "fp32", recorder)
    assert_equal(found, wanted)
    assert len(recorder.tapes) == 2 and found["replayed"] == 2 * (STEPS - PLAIN_FIRST)


@pytest.mark.parametrize("name", ["pretrain", "finetune"])
def test_nothing_enters_a_graph_but_weights_and_its_own_batch(
    name: str, task_on: Callable[..., Any], batch_of: Callable[..., PackedBatch]
) -> None:
    task, recorder = task_on(name, 1, "fp32"), OpRecorder()
    engine = OneRankEngine(task.module)
    compute = Captured(engine, task, runtime(), recorder=recorder, insist=True)
    batches = [numbered(batch_of, name, step) for step in range(STEPS)]
    for batch in batches:
        compute([batch], None)
        engine.step()
        # Nothing may come back to a batch of the past.
        for _, tensor in tensors_in(batch):
            tensor.fill_(float("nan") if tensor.is_floating_point() else 0)
    (graph,) = compute._graphs.values()
    known = [*task.module.parameters(), *task.module.buffers(), *imagenet_statistics(CPU)]
    known += [tensor for _, tensor in tensors_in(graph.inputs)]
    (tape,) = recorder.tapes
    strangers = [tensor for key, tensor in tape.entered.items() if key not in set(map(address, known))]
    # The one number is the gradient that autograd starts from.
    assert [tuple(tensor.shape) for tensor in strangers] in ([], [()])
    assert all(bool(torch.isfinite(value).all()) for value in weights(engine))


@pytest.mark.parametrize("name", ["pretrain", "finetune"])
def test_nothing_is_drawn_from_a_generator(
    name: str, task_on: Callable[..., Any], batch_of: Callable[..., PackedBatch]
) -> None:
    task, before = task_on(name, 1, "fp32"), torch.get_rng_state()
    batch = numbered(batch_of, name, 0)
    task.forward(task.module, batch, task.begin_step(task.module, [batch])).loss.backward()
    assert torch.equal(torch.get_rng_state(), before)


def changed(batch: PackedBatch) -> dict[str, PackedBatch]:
    """Batches that are computed otherwise than `batch`."""
    images, clips = batch.groups
    two = torch.arange(2)
    mixed = Mix(partner=two.flip(0), lam=torch.ones(2))
    boxes = torch.zeros(2, 4, dtype=torch.int32)

    def with_images(**changes: Any) -> PackedBatch:
        return dataclasses.replace(batch, groups=(dataclasses.replace(images, **changes), clips))

    return {
        "layout": dataclasses.replace(batch, layout=((1, 4), (1, 4), (2, 8))),
        "samples of the step": dataclasses.replace(batch, step_samples={"image": 3, "video": 2}),
        "order of the step's samples": dataclasses.replace(batch, step_samples={"video": 2, "image": 2}),
        "longest": dataclasses.replace(batch, max_seqlen=9),
        "modality": with_images(modality="video"),
        "mixed": with_images(mix=mixed),
        "mixed with boxes": with_images(mix=dataclasses.replace(mixed, box=boxes)),
        "erased": with_images(erase=Erase(box=boxes, seed=two, noise=False)),
        "erased with noise": with_images(erase=Erase(box=boxes, seed=two, noise=True)),
        "drop path": dataclasses.replace(batch, drop_path_keep=None),
        "dtype": dataclasses.replace(batch, positions=batch.positions.int()),
        "head": dataclasses.replace(batch, heads=batch.heads[::-1]),
    }


def test_the_form_tells_batches_apart(batch_of: Callable[..., PackedBatch]) -> None:
    batch = batch_of(drop_path=0.3)
    forms = {name: form_of(other) for name, other in changed(batch).items()}
    assert form_of(batch) not in forms.values() and len(set(forms.values())) == len(forms)
    assert form_of(numbered(batch_of, "finetune", 7)) == form_of(batch)
    assert form_of((batch, None)) != form_of((batch, torch.ones(2)))


def test_every_field_is_a_tensor_or_part_of_the_form(batch_of: Callable[..., PackedBatch]) -> None:
    """But for the names of samples, whatever a batch holds is either copied into a graph's own or tells it apart."""
    batch = batch_of(drop_path=0.3)
    for field in dataclasses.fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Tensor):
            assert field.name in dict(tensors_in(batch))
        else:
            other: Any = None if field.name in {"groups", "heads", "step_samples"} else "another"
            stub = dataclasses.make_dataclass("Stub", [field.name])
            assert form_of(stub(value)) != form_of(stub(other))
