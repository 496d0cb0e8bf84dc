"""The one place where Triton kernels start: skips empty grids, sets the device, and can record instead of run.

A recording holds every launch with its arguments and compile-time constants, so that tests count launches and the
offline compiler builds just what a launcher would have started, for any architecture and without a GPU.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from kernels.backends import Facts

OLDEST_ARCHITECTURE = 80
# What the interpreter stands in for when tiles are chosen.
_INTERPRETED_ARCHITECTURE = 90


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """One start of a kernel: the jitted function, its grid, arguments by name, and how it is compiled."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: Mapping[str, Any]
    constants: Mapping[str, Any]
    num_warps: int
    num_stages: int

    @property
    def name(self) -> str:
        """Name of the kernel function."""
        return str(self.kernel.__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Arithmetic and least traffic of one kernel in one case: FLOPs, and bytes each needed tensor is moved once."""

    flops: float
    bytes: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CompileCase:
    """A call whose launches the offline compiler builds: ``run`` calls an op's launchers on meta tensors.

    ``work`` gives the figures of each kernel by name.
    """

    name: str
    dtype: torch.dtype
    run: Callable[[], object]
    work: Mapping[str, Work]


@dataclass(slots=True)
class _Recorder:
    launches: list[Launch]
    dry: bool
    architecture: int | None


_recorders: list[_Recorder] = []


@contextmanager
def recording(*, dry: bool = False, architecture: int | None = None) -> Iterator[list[Launch]]:
    """Collect the launches of the block; ``dry`` starts none, and ``architecture`` (90 for sm_90) steers the tiles."""
    recorder = _Recorder(launches=[], dry=dry, architecture=architecture)
    _recorders.append(recorder)
    try:
        yield recorder.launches
    finally:
        _recorders.remove(recorder)


def launch(
    kernel: Any, grid: tuple[int, ...], *arguments: Any, num_warps: int = 4, num_stages: int = 2, **constants: Any
) -> None:
    """Start ``kernel`` on ``grid``: run-time ``arguments`` in their order, compile-time ``constants`` by name."""
    if 0 in grid:
        return
    if _recorders:
        names = kernel.arg_names
        record = Launch(
            kernel=kernel,
            grid=grid,
            arguments=dict(zip(names, arguments, strict=False)),
            constants=constants,
            num_warps=num_warps,
            num_stages=num_stages,
        )
        for recorder in _recorders:
            recorder.launches.append(record)
        if any(recorder.dry for recorder in _recorders):
            return
    first = next(argument for argument in arguments if isinstance(argument, Tensor))
    # Triton starts kernels on the current device, whatever its arguments are on.
    with torch.cuda.device(first.device) if first.device.type == "cuda" else nullcontext():
        kernel[grid](*arguments, num_warps=num_warps, num_stages=num_stages, **constants)


def architecture(device: torch.device) -> int:
    """Compute capability that tiles are chosen for, as 10 * major + minor."""
    for recorder in reversed(_recorders):
        if recorder.architecture is not None:
            return recorder.architecture
    return _capability(device) if device.type == "cuda" else _INTERPRETED_ARCHITECTURE


def family(architecture: int) -> int:
    """The tile tables' row for an architecture: 80, 90 or 100, the latest that is not newer.

    From 120 on, graphics cards of the Blackwell family have the products and the shared memory of sm_86: row 80.
    """
    return 80 if architecture >= 120 else max(known for known in (80, 90, 100) if known <= architecture)


@functools.cache
def _capability(device: torch.device) -> int:
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def triton_refuses(facts: Facts) -> str | None:
    """Why no Triton kernel can serve tensors of ``facts["device"]``, or None."""
    if find_spec("triton") is None:
        return "triton is not installed"
    if facts["device"] == "cuda":
        found = _capability(torch.device("cuda", torch.cuda.current_device()))
        return None if found >= OLDEST_ARCHITECTURE else f"needs compute capability 8.0, the device has {found / 10}"
    if facts["device"] == "cpu" and is_interpreted():
        return None
    return f"serves CUDA tensors, not {facts['device']} (on a CPU: TRITON_INTERPRET=1, for tests)"


@functools.cache
def is_interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter, which it decides when a kernel is defined."""
    import triton

    return bool(triton.knobs.runtime.interpret)
