"""The CUDA routing plan: its arithmetic on fibers, what the compiler makes of it, and itself where there is a GPU."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor

import kernels.native as native
from kernels.moae.plan import BACKENDS, RoutingPlan, build_plan, portable_plan

SOURCES = Path(native.__file__).parent
FIBERS = Path(__file__).parent / "native" / "plan_emulation.cpp"
# Tokens, choices, experts, capacity. Tiles hold 1024 assignments until there are more than 128 of them.
CASES = {
    "one": (1, 1, 1, None),
    "none": (0, 2, 8, 3),
    "no choice": (5, 0, 8, None),
    "full warp": (16, 2, 8, None),
    "one past a warp": (33, 1, 8, 4),
    "one short of a tile": (1023, 1, 8, None),
    "one past a tile": (1025, 1, 8, 100),
    "several tiles": (1700, 2, 8, 430),
    "nothing fits": (300, 2, 8, 0),
    "many experts": (700, 2, 300, 4),
    "as many as fit": (64, 2, 1000, None),
    "prime experts": (401, 3, 37, 20),
}


def chosen(tokens: int, top_k: int, experts: int, skew: float = 1.0) -> Tensor:
    """Distinct experts of each token; the more skewed, the more often the first ones."""
    liking = torch.rand(tokens, experts) - skew * torch.linspace(0, 1, experts)
    return liking.argsort(1, descending=True)[:, :top_k].contiguous()


@pytest.fixture(scope="module")
def emulation(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The plan's source, compiled for fibers."""
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    path = tmp_path_factory.mktemp("plan") / "emulation.so"
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-pedantic", "-Werror", "-shared", "-fPIC", f"-I{SOURCES}"]
    subprocess.run([compiler, *flags, str(FIBERS), "-o", str(path)], check=True)
    return ctypes.CDLL(str(path))


def emulated(library: ctypes.CDLL, ids: Tensor, experts: int, capacity: int | None, *, backwards: bool) -> RoutingPlan:
    """The plan of the fibers, its arrays filled with what they must not leave."""
    offsets = torch.full((experts + 1,), -7, dtype=torch.int32)
    order, slots = torch.full((ids.numel(),), -7), torch.full(ids.shape, -7)
    kept = torch.ones(ids.shape, dtype=torch.bool)
    arrays = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (ids, offsets, order, slots, kept)]
    sizes = [ctypes.c_int64(n) for n in (*ids.shape, experts, -1 if capacity is None else capacity)]
    stuck = library.emulated_routing_plan(arrays[0], *sizes, *arrays[1:], ctypes.c_int64(backwards))
    assert stuck == 0
    return RoutingPlan(
        topk_expert_ids=ids, expert_offsets=offsets, order=order, slots=slots, kept=kept, capacity=capacity
    )


def assert_equal(ours: RoutingPlan, expected: RoutingPlan) -> None:
    for name in ("expert_offsets", "order", "slots", "kept"):
        assert torch.equal(getattr(ours, name).cpu(), getattr(expected, name).cpu()), name


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_fibers_give_the_portable_plan(emulation: ctypes.CDLL, name: str, backwards: bool) -> None:
    tokens, top_k, experts, capacity = CASES[name]
    for skew in (0.0, 1.0, 1e6):
        ids = chosen(tokens, top_k, experts, skew)
        expected = portable_plan(ids, experts, capacity)
        assert_equal(emulated(emulation, ids, experts, capacity, backwards=backwards), expected)


def test_tiles_grow_with_the_number_of_assignments(emulation: ctypes.CDLL) -> None:
    ids = torch.randint(0, 4, (132_000, 1))
    assert_equal(emulated(emulation, ids, 4, 40_000, backwards=False), portable_plan(ids, 4, 40_000))


def test_ids_out_of_range_come_last_and_are_not_kept(emulation: ctypes.CDLL) -> None:
    ids = torch.tensor([[0, 9], [-1, 1], [1, 2], [2**40, 0]])
    plan = emulated(emulation, ids, 3, None, backwards=False)
    assert plan.expert_offsets.tolist() == [0, 2, 4, 5]
    assert plan.order.tolist() == [0, 7, 3, 4, 5, 1, 2, 6]
    assert plan.kept.tolist() == [[True, False], [False, True], [True, True], [False, True]]
    assert torch.equal(plan.order[plan.slots.flatten()], torch.arange(8))


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no CUDA compiler")
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90a", "sm_100"])
def test_compiles_for_devices_without_a_spill(architecture: str, tmp_path: Path) -> None:
    flags = ["-std=c++17", "-cubin", "-DS4D_WITH_CUDA", "-Werror=all-warnings", "-Xptxas=-v,-warn-spills,-Werror"]
    command = ["nvcc", f"-arch={architecture}", *flags, str(SOURCES / "routing_plan.cu")]
    told = subprocess.run(
        [*command, "-o", str(tmp_path / "plan.cubin")], check=True, capture_output=True, text=True
    ).stderr
    assert told.count("0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads") == 2


def test_native_cuda_row_says_why_it_refuses() -> None:
    with pytest.raises(ValueError, match="'native_cuda' cannot serve this call: serves CUDA tensors, not cpu"):
        build_plan(chosen(4, 2, 8), 8, None, backend="native_cuda")
    reason = BACKENDS["native_cuda"].refuse({"device": "cuda"})
    assert reason == native.parts()["CUDA"]


@pytest.mark.gpu
@pytest.mark.skipif(native.cuda_refuses() is not None, reason=str(native.cuda_refuses()))
@pytest.mark.parametrize("name", CASES)
def test_device_gives_the_portable_plan(name: str) -> None:
    tokens, top_k, experts, capacity = CASES[name]
    for skew in (0.0, 1.0, 1e6):
        ids = chosen(tokens, top_k, experts, skew)
        expected = portable_plan(ids, experts, capacity)
        for _ in range(3):
            assert_equal(build_plan(ids.cuda(), experts, capacity, backend="native_cuda"), expected)


@pytest.mark.gpu
@pytest.mark.skipif(native.cuda_refuses() is not None, reason=str(native.cuda_refuses()))
def test_device_plan_is_queued_on_the_current_stream_and_captured() -> None:
    ids = chosen(1600, 2, 8).cuda()
    expected = portable_plan(ids.cpu(), 8, 300)
    build_plan(ids, 8, 300, backend="native_cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        plan = build_plan(ids, 8, 300, backend="native_cuda")
    plan.order.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert_equal(plan, expected)
    with pytest.raises(RuntimeError, match="CUDA error"):
        build_plan(ids, 1001, None, backend="native_cuda")
