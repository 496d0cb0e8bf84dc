"""Where kernels start: what a recording holds, what is skipped, whom Triton refuses."""

from __future__ import annotations

import pytest
import torch
from compile_kernels import axpy

import kernels.launch
from kernels.launch import architecture, family, launch, recording, triton_refuses

CPU = torch.device("cpu")
# Interpreted kernels take tensors of the CPU, compiled ones of the GPU.
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def start(x: torch.Tensor, y: torch.Tensor, grid: tuple[int, ...] = (1,)) -> None:
    launch(axpy, grid, x, y, 2.0, x.numel(), num_warps=8, num_stages=1, BLOCK=16)


def test_a_recorded_launch_also_runs() -> None:
    x, y = torch.arange(10.0, device=DEVICE), torch.empty(10, device=DEVICE)
    with recording() as launches:
        start(x, y)
    (found,) = launches
    assert (found.name, found.grid, found.num_warps, found.num_stages) == ("axpy", (1,), 8, 1)
    assert dict(found.constants) == {"BLOCK": 16}
    assert list(found.arguments) == ["x", "y", "scale", "count"]
    assert found.arguments["x"] is x
    assert torch.equal(y, 2 * x)


def test_a_dry_recording_starts_nothing() -> None:
    x, y = torch.arange(10.0, device=DEVICE), torch.zeros(10, device=DEVICE)
    with recording() as outer:
        with recording(dry=True) as inner:
            start(x, y)
        assert not y.any()
        start(x.to("meta"), y.to("meta"), grid=(0, 3))
    assert len(inner) == len(outer) == 1


def test_an_empty_grid_is_skipped() -> None:
    with recording() as launches:
        start(torch.empty(0), torch.empty(0), grid=(4, 0))
    assert not launches


def test_the_innermost_architecture_counts() -> None:
    plain = architecture(CPU)
    with recording(dry=True, architecture=80):
        assert architecture(CPU) == 80
        with recording(dry=True, architecture=100), recording():
            assert architecture(torch.device("meta")) == 100
        assert architecture(CPU) == 80
    assert architecture(CPU) == plain


def test_a_recording_ends_with_its_block() -> None:
    with pytest.raises(RuntimeError), recording(dry=True, architecture=80):
        raise RuntimeError
    assert architecture(CPU) != 80
    with recording() as launches:
        pass
    start(torch.ones(3, device=DEVICE), torch.empty(3, device=DEVICE))
    assert not launches


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    assert triton_refuses({"device": "meta"}) == (
        "serves CUDA tensors, not meta (on a CPU: TRITON_INTERPRET=1, for tests)"
    )
    monkeypatch.setattr(kernels.launch, "is_interpreted", lambda: False)
    assert "serves CUDA tensors, not cpu" in (triton_refuses({"device": "cpu"}) or "")
    monkeypatch.setattr(kernels.launch, "is_interpreted", lambda: True)
    assert triton_refuses({"device": "cpu"}) is None
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(kernels.launch, "_capability", lambda device: 75)
    assert triton_refuses({"device": "cuda"}) == "needs compute capability 8.0, the device has 7.5"
    monkeypatch.setattr(kernels.launch, "_capability", lambda device: 90)
    assert triton_refuses({"device": "cuda"}) is None
    monkeypatch.setattr(kernels.launch, "find_spec", lambda name: None)
    assert triton_refuses({"device": "cuda"}) == "triton is not installed"


def test_families_of_architectures() -> None:
    found = {architecture: family(architecture) for architecture in (80, 86, 89, 90, 100, 103, 120)}
    assert found == {80: 80, 86: 80, 89: 80, 90: 90, 100: 100, 103: 100, 120: 80}
