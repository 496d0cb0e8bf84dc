"""The machine's own limits, measured in the same run: a large matrix product and a large copy."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from kernels.bench.cuda_timing import flush_buffer, graph_seconds

_CUDA_SIDE = 8192
_CPU_SIDE = 2048
_CUDA_COPY_BYTES = 2 << 30
_CPU_COPY_BYTES = 256 << 20
_REPEATS = 5


def measure_ceiling(
    device: torch.device, dtypes: tuple[torch.dtype, ...], *, quick: bool = False, side: int | None = None
) -> dict[str, float]:
    """FLOP/s of a square product per dtype (``matmul_<dtype>``) and bytes per second of a copy (``copy``).

    On a GPU also ``graph_seconds``, what timing adds to a captured call.
    The best of several repeats: a limit, not a typical value. ``side`` is that of the product, ``quick`` is for tests,
    on tiny sizes.
    """
    on_cpu = device.type == "cpu"
    side = 128 if quick else side or (_CPU_SIDE if on_cpu else _CUDA_SIDE)
    ceiling = {}
    for dtype in dtypes:
        left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(left)

        def product(left: torch.Tensor = left, right: torch.Tensor = right, out: torch.Tensor = out) -> None:
            torch.mm(left, right, out=out)

        ceiling[f"matmul_{str(dtype).removeprefix('torch.')}"] = 2.0 * side**3 / _best_seconds(product, device)
    count = 1 << 16 if quick else (_CPU_COPY_BYTES if on_cpu else _CUDA_COPY_BYTES)
    source = torch.randn(count // 4, device=device)
    target = torch.empty_like(source)
    # Each byte is read once and written once.
    ceiling["copy"] = 2.0 * source.numel() * 4 / _best_seconds(lambda: target.copy_(source), device)
    if not on_cpu:
        ceiling["graph_seconds"] = graph_seconds(flush_buffer(device))
    return ceiling


def _best_seconds(call: Callable[[], object], device: torch.device) -> float:
    call()
    best = float("inf")
    for _ in range(_REPEATS):
        _wait(device)
        start = time.perf_counter()
        call()
        _wait(device)
        best = min(best, time.perf_counter() - start)
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
