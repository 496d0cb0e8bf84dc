from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from kernels.backends import BackendRefusedError
from s4d.data.batch import PackedBatch
from s4d.models import compiled
from s4d.models.build import build_finetune, build_pretrain
from s4d.models.sizes import Architecture, MoaeArchitecture

HEADS = {"faces": 3, "clips": 4}
# Experts that leave no choice of rows to the host.
BACKENDS = {"moae": "dense_all"}


@pytest.fixture(autouse=True)
def traced_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whole graphs, run as they were traced: what a C++ compiler makes of them is torch's business."""
    compile_ = torch.compile
    monkeypatch.setattr(
        torch,
        "compile",
        lambda forward, *, fullgraph, dynamic: compile_(forward, fullgraph=True, dynamic=dynamic, backend="aot_eager"),
    )
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


def gradients(model: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True))


def test_pretraining_is_two_graphs(
    architecture_of: Callable[..., Architecture], batch_of: Callable[..., PackedBatch]
) -> None:
    """One for all blocks of the encoder, one for those of the decoder; values as without."""
    model, batch = build_pretrain(architecture_of(), 1).double(), batch_of(masked={"image": 3, "video": 6})
    expected = sum(model(batch).values())
    wanted = gradients(model, expected)
    compiled.choose_forwards(model, "compiled", zero_stage=1)
    found = sum(model(batch).values())
    assert graphs() == 2
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients(model, found), wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "added", [{}, pytest.param({"modality_prior": True, "shared_experts": 1}, marks=pytest.mark.deep)], ids=str
)
def test_finetuning_is_two_graphs_in_every_epoch(
    architecture_of: Callable[..., Architecture],
    experts_of: Callable[..., MoaeArchitecture],
    batch_of: Callable[..., PackedBatch],
    added: dict[str, object],
) -> None:
    """One for the blocks with experts, one for those without; keys of another epoch are new values, no new graph."""
    arch = architecture_of(experts=experts_of(layers=(1, 2), **added))
    model, batch = build_finetune(arch, HEADS, 2, BACKENDS).double(), batch_of(drop_path=0.3)
    later = dataclasses.replace(batch, layer_keys=batch.layer_keys + 1)
    expected = [model(each).features for each in (batch, later)]
    compiled.choose_forwards(model, "compiled", zero_stage=0)
    found = [model(each).features for each in (batch, later)]
    assert graphs() == 2
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_evaluation_stays_as_written(
    architecture_of: Callable[..., Architecture], batch_of: Callable[..., PackedBatch]
) -> None:
    model = build_finetune(architecture_of(), HEADS, 2).double().eval()
    compiled.choose_forwards(model, "compiled", zero_stage=0)
    for count in range(1, 12):
        model(batch_of(images=range(count), clips=range(0)))
    assert graphs() == 0


def test_zero_3_is_refused(architecture_of: Callable[..., Architecture], batch_of: Callable[..., PackedBatch]) -> None:
    model = build_finetune(architecture_of(), HEADS, 2).double()
    compiled.choose_forwards(model, "compiled", zero_stage=3)
    with pytest.raises(BackendRefusedError, match="blocks: backend 'compiled' cannot serve this call: ZeRO 3"):
        model(batch_of())
