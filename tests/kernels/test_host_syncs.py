"""No forward or backward reads a device value on the host or makes a shape of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import kernels.moae as moae_op
import kernels.patch as patch_op
import kernels.reconstruction as reconstruction_op
from kernels.moae import Experts, Router
from kernels.patch import Erase, Mix
from kernels.philox import NoiseKey

WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "item", "bincount", "unique", "_unique2"}


class Recorder(TorchDispatchMode):
    """Names of the ops that ran, boolean indexing marked."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        indices = args[1] if name in {"index", "index_put", "index_put_"} else ()
        if any(index is not None and index.dtype == torch.bool for index in indices):
            name = "nonzero"
        self.names.add(name)
        return func(*args, **(kwargs or {}))


def run_moae(backend: str) -> Tensor:
    def leaf(*size: int) -> Tensor:
        return torch.randn(*size, requires_grad=True)

    router = Router(weight=leaf(4, 16), bias=leaf(4), noise_weight=leaf(4, 16), noise_bias=leaf(4))
    experts = Experts(fc1_weight=leaf(4, 8, 16), fc1_bias=leaf(4, 8), fc2_weight=leaf(4, 16, 8), fc2_bias=leaf(4, 16))
    key = NoiseKey.of(seed=1, epoch=0, layer=2, sample_key=torch.arange(30) // 10, token=torch.arange(30) % 10)
    output, record = moae_op.moae(
        leaf(30, 16), router, experts, top_k=2, capacity_factor=0.8, noise=key, groups=(0, 9, 30), backend=backend
    )
    return output.sum() + record.prob_sums.square().sum()


def run_patch(backend: str) -> Tensor:
    pixels = torch.randint(0, 256, (2, 4, 16, 16, 3), dtype=torch.uint8)
    box = torch.tensor([[0, 0, 9, 9], [0, 0, 0, 0]], dtype=torch.int32)
    return patch_op.embed_visible(
        pixels,
        torch.tensor([3, 9, 15]),
        torch.randn(8, 3, 2, 8, 8, requires_grad=True),
        torch.randn(8, requires_grad=True),
        torch.full((3,), 0.5),
        torch.full((3,), 0.2),
        mix=Mix(partner=torch.tensor([1, 0]), lam=torch.tensor([0.3, 0.6]), box=box.flip(0)),
        erase=Erase(box=box, seed=torch.tensor([5, 6]), noise=True),
        backend=backend,
    ).sum()


def run_reconstruction(backend: str) -> Tensor:
    pixels = torch.randint(0, 256, (2, 4, 16, 16, 3), dtype=torch.uint8)
    hidden, weight, bias = (torch.randn(*size, requires_grad=True) for size in ((3, 8), (384, 8), (384,)))
    return reconstruction_op.masked_loss(hidden, weight, bias, pixels, torch.tensor([3, 9, 15]), backend=backend)[0]


ON_CPU = {"device": "cpu", "dtype": torch.float32}
RUNS: list[tuple[Callable[[str], Tensor], str]] = [
    *[(run_moae, name) for name, row in moae_op.BACKENDS.items() if row.refuse(ON_CPU) is None],
    *[(run_patch, name) for name in ("gather", "reference")],
    *[(run_reconstruction, name) for name in reconstruction_op.BACKENDS],
]


@pytest.mark.parametrize(("run", "backend"), RUNS)
def test_nothing_waits_for_the_device(
    run: Callable[[str], Tensor], backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S4D_MOAE_PLAN_BACKEND", "portable")
    run(backend)
    with Recorder() as recorder:
        run(backend).backward()
    # A custom op is one name here; tests of launch counts look into it.
    assert len(recorder.names) > 5
    assert not recorder.names & WAITING


def test_the_recorder_sees_waiting() -> None:
    with Recorder() as recorder:
        values = torch.randn(5)
        assert values[values > 9].numel() == 0
        values.sum().item()
    assert recorder.names & WAITING == {"nonzero", "_local_scalar_dense"}
