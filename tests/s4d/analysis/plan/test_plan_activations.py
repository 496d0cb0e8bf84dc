"""Activations as the plan has them against torch's own records: the allocator's on a CPU, MemTracker's for Triton."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

import kernels.backends
from engine.recompute import layers_of, recompute, spread_evenly
from kernels.bench.memory import measure_memory
from kernels.bench.records import Run
from kernels.native import attention_refuses
from s4d.analysis.bench_step import StepShape, random_batch
from s4d.analysis.plan.activations import FAMILIES, Activations, MicroBatch, activations
from s4d.models import vit
from s4d.models.backends import OPS
from s4d.models.build import build_finetune, build_pretrain
from s4d.models.classifier import FinetuneModel
from s4d.models.mae import PretrainModel
from s4d.models.sizes import Architecture, MoaeArchitecture
from s4d.models.stream import Segments, masked_layout

HEADS = {"image": 7, "video": 7}
SAMPLES = {"image": 4, "video": 6}
# Weights that are small beside what a batch leaves; clips of 256 tokens, so that the decoder's attention streams.
SMALL = Architecture(
    embed_dim=64,
    depth=3,
    num_heads=2,
    decoder_embed_dim=64,
    decoder_depth=2,
    decoder_num_heads=2,
    image_size=64,
    num_frames=8,
    patch_size=8,
    position_frames=8,
)
EXPERTS = MoaeArchitecture(layers=(1, 2), num_experts=8, top_k=2, hidden_dim=16)
KEPT_CLOSE, PEAK_CLOSE = 0.03, 0.10


# Pre-training with other decoders: which, and the share of the masked tokens that it predicts.
DECODERS = {"cross": ("cross", 1.0), "cross half": ("cross", 0.5), "joint half": ("joint", 0.5)}
PRETRAINED = ("pretrain", *DECODERS)


def case(task: str, *, drop_path: bool = False) -> tuple[Architecture, Any, MicroBatch]:
    decoder, share = DECODERS.get(task, ("joint", 1.0))
    arch = dataclasses.replace(SMALL, experts=EXPERTS if task == "moae" else None, decoder=decoder)
    stage = "pretrain" if task in PRETRAINED else "finetune"
    shape = StepShape(task=stage, size="tiny", images=SAMPLES["image"], clips=SAMPLES["video"], decode_ratio=share)
    batch = random_batch(shape, arch)
    if drop_path:
        batch = dataclasses.replace(batch, drop_path_keep=torch.ones(arch.depth, sum(SAMPLES.values())))
    kept, decoded = (
        dict(zip(SAMPLES, (length for _, length in layout), strict=True))
        for layout in (batch.layout_visible, masked_layout(batch))
    )
    return arch, batch, MicroBatch(samples=SAMPLES, kept=kept, decoded=decoded if share < 1 else None)


def loss_of(model: Any, batch: Any) -> Tensor:
    found = model(batch)
    if isinstance(found, dict):
        return torch.stack(list(found.values())).sum()
    return torch.stack([*(each.sum() for each in found.logits.values())]).sum() + sum(
        terms.prob_sums.sum() for terms in found.routing
    )


def measured(
    task: str, family: str, dtype: torch.dtype, *, drop_path: bool = False, recomputed: float = 0.0
) -> Activations:
    """On this machine's CPU, by every allocation; gradients of the weights included."""
    arch, batch, _ = case(task, drop_path=drop_path)
    backends = {} if family.startswith("cpu") else dataclasses.asdict(FAMILIES[family])
    build: Any = build_pretrain if task in PRETRAINED else partial(build_finetune, heads=HEADS)
    model = build(arch, seed=0, backends=backends).to(dtype).train()
    recompute(spread_evenly(layers_of(model), recomputed))
    run = Run(
        forward=lambda: (loss_of(model, batch),),
        leaves=tuple(model.parameters()),
        upstream=(torch.ones(()),),
        results=lambda outputs, gradients: {},
    )
    # What is built once, such as tables, is no activation.
    run.backward(run.outputs())
    memory = measure_memory(run, torch.device("cpu"))
    return Activations(kept=memory.held, peak=memory.peak)


@pytest.mark.parametrize(
    ("task", "family", "dtype", "drop_path"),
    [
        ("pretrain", "cpu", torch.bfloat16, False),
        ("moae", "cpu", torch.bfloat16, True),
        ("pretrain", "cpu fp32", torch.float32, False),
        ("joint half", "cpu", torch.bfloat16, False),
        ("cross", "cpu", torch.bfloat16, False),
        ("cross half", "cpu fp32", torch.float32, False),
        ("moae", "cpu fp32", torch.float32, False),
        ("pretrain", "plain", torch.bfloat16, False),
        ("finetune", "plain", torch.float32, False),
        ("moae", "plain", torch.bfloat16, False),
    ],
)
def test_activations_are_those_of_the_allocator(task: str, family: str, dtype: torch.dtype, drop_path: bool) -> None:
    refusal = attention_refuses(SMALL.embed_dim // SMALL.num_heads)
    if family == "cpu" and refusal is not None:
        pytest.skip(refusal)
    found = measured(task, family, dtype, drop_path=drop_path)
    arch, _, batch = case(task)
    expected = activations(
        arch,
        "pretrain" if task in PRETRAINED else "finetune",
        batch,
        backends=FAMILIES[family],
        element_bytes=dtype.itemsize,
        drop_path=drop_path,
        keeps_gradients=True,
    )
    assert expected.kept == pytest.approx(found.kept, rel=KEPT_CLOSE)
    assert expected.peak == pytest.approx(found.peak, rel=PEAK_CLOSE)


@pytest.mark.parametrize(
    ("task", "family", "dtype", "share", "layers"),
    [
        ("pretrain", "cpu fp32", torch.float32, 0.5, (1, 3)),
        ("pretrain", "plain", torch.bfloat16, 1.0, range(5)),
        ("joint half", "cpu fp32", torch.float32, 1.0, range(5)),
        ("cross", "cpu fp32", torch.float32, 1.0, range(5)),
        ("moae", "cpu fp32", torch.float32, 0.5, (1,)),
        ("moae", "plain", torch.bfloat16, 1.0, range(3)),
    ],
)
def test_recomputed_layers_save_what_they_save_by_the_allocator(
    task: str, family: str, dtype: torch.dtype, share: float, layers: Sequence[int]
) -> None:
    arch, _, batch = case(task)
    stage = "pretrain" if task in PRETRAINED else "finetune"
    expected = [
        activations(
            arch,
            stage,
            batch,
            backends=FAMILIES[family],
            element_bytes=dtype.itemsize,
            keeps_gradients=True,
            recomputed=some,
        )
        for some in ((), layers)
    ]
    found = [measured(task, family, dtype, recomputed=some) for some in (0.0, share)]
    assert expected[0].kept - expected[1].kept == pytest.approx(found[0].kept - found[1].kept, rel=KEPT_CLOSE)
    assert expected[0].peak - expected[1].peak == pytest.approx(found[0].peak - found[1].peak, rel=PEAK_CLOSE)


@pytest.fixture
def triton_everywhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Triton's rows refuse nothing; fake tensors never start a kernel."""
    monkeypatch.setattr(kernels.backends, "_resolved", {})
    for table in (table for table in OPS.values() if "triton" in table):
        row = dataclasses.replace(table["triton"], refuse=kernels.backends.accept)
        monkeypatch.setitem(table, "triton", row)  # type: ignore[misc]
    vit.imagenet_statistics.cache_clear()
    yield
    # It has kept fake tensors.
    vit.imagenet_statistics.cache_clear()


def tracked(task: str) -> Activations:
    """By torch's MemTracker, over fake tensors: the ops' own shapes, without what their kernels take meanwhile."""
    arch, batch, _ = case(task)
    backends = dataclasses.asdict(FAMILIES["triton"])
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        torch.set_default_dtype(torch.bfloat16)
        try:
            model: Any = PretrainModel(arch, backends) if task in PRETRAINED else FinetuneModel(arch, HEADS, backends)
        finally:
            torch.set_default_dtype(torch.float32)
        fake = faked(batch, mode)
        tracker = MemTracker()
        tracker.track_external(model.train(), *(group.pixels for group in fake.groups))
        with tracker:
            before = total(tracker, "current")
            loss = loss_of(model, fake)
            kept = total(tracker, "current") - before
            loss.backward()
        return Activations(kept=kept, peak=total(tracker, "peak") - before)


def total(tracker: MemTracker, kind: str) -> int:
    (snapshot,) = tracker.get_tracker_snapshot(kind).values()
    return int(snapshot["Total"])


def faked(value: Any, mode: FakeTensorMode) -> Any:
    if isinstance(value, Tensor):
        return mode.from_tensor(value)
    if isinstance(value, tuple):
        return tuple(faked(item, mode) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{item.name: faked(getattr(value, item.name), mode) for item in dataclasses.fields(value)})
    return value


@pytest.mark.usefixtures("triton_everywhere")
@pytest.mark.parametrize("task", ["pretrain", "finetune", "moae", "joint half", "cross"])
def test_activations_of_the_triton_path_are_those_that_torch_tracks(task: str) -> None:
    found = tracked(task)
    arch, _, batch = case(task)
    stage = "pretrain" if task in PRETRAINED else "finetune"
    plain = dataclasses.replace(FAMILIES["triton"], blocks="plain")
    expected = activations(arch, stage, batch, backends=plain, keeps_gradients=True)
    assert expected.kept == pytest.approx(found.kept, rel=KEPT_CLOSE)
    assert expected.peak == pytest.approx(found.peak, rel=PEAK_CLOSE)


def test_a_compiled_block_keeps_what_gelu_returns_too() -> None:
    """By the partition that torch.compile makes of forward and backward, run op by op."""
    from torch._inductor.compile_fx import select_decomp_table

    partitioned = aot_autograd(
        fw_compiler=lambda graph, inputs: make_boxed_func(graph.forward),
        bw_compiler=lambda graph, inputs: make_boxed_func(graph.forward),
        partition_fn=min_cut_rematerialization_partition,
        decompositions=select_decomp_table(),
    )
    tokens, width = 2048, 64
    segments = Segments(torch.arange(0, tokens + 1, 256, dtype=torch.int32), 256, ((8, 256),))
    held = []
    for compiled in (False, True):
        block = vit.Block(width, 2, 4, {"attention": "grouped"}).train()
        x = torch.zeros(tokens, width, requires_grad=True)
        forward: Any = torch.compile(block.forward, backend=partitioned, fullgraph=True) if compiled else block.forward
        run = Run(
            forward=lambda forward=forward, x=x: (forward(x, segments, None, None, ())[0],),
            leaves=(x, *block.parameters()),
            upstream=(torch.ones(tokens, width),),
            results=lambda outputs, gradients: {},
        )
        run.backward(run.outputs())
        held.append(measure_memory(run, torch.device("cpu")).held)
    assert held[1] - held[0] == pytest.approx(tokens * 4 * width * 4, rel=KEPT_CLOSE)


def test_a_fine_tuning_clip_of_the_base_model_keeps_what_is_known_of_it() -> None:
    """About sixteen rows of the model's width for each token and block, twelve blocks: 190 MB of bf16."""
    arch = StepShape(task="finetune", size="base", images=0, clips=1).architecture()
    found = activations(arch, "finetune", MicroBatch(samples={"video": 1}, kept={"video": 800}))
    rows = found.kept / (800 * 768 * 2 * 12)
    assert 16.0 < rows < 18.0 and found.peak < 1.1 * found.kept


def test_activations_grow_with_the_batch() -> None:
    arch, _, batch = case("pretrain")
    one = activations(arch, "pretrain", batch)
    twice = dataclasses.replace(batch, samples={name: 2 * count for name, count in batch.samples.items()})
    assert activations(arch, "pretrain", twice).kept == 2 * one.kept - 4
