"""Cases of the masked reconstruction loss: clips and stills of the released batch, with their peers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear

from kernels.bench import floors
from kernels.bench.backend_peers import backend_peers
from kernels.bench.patch import random_indices, random_pixels
from kernels.bench.records import AbsentError, Case, Peer, Run
from kernels.reconstruction import BACKENDS, masked_loss

# hidden (M, D), weight (values, D), bias (values,).
_Leaves = tuple[Tensor, Tensor, Tensor]
_TUBELET = 2
_EPS = 1e-6
_RESULTS = ("loss", "d_hidden", "d_weight", "d_bias")
# Each shape costs a compilation, on a CPU of half a minute.
_COMPILED_CASES = frozenset({"clips", "stills", "clips_small"})
# As after division by the number of tokens: a backend that forgets the incoming gradient fails.
_UPSTREAM = 0.25
_SEED = 23


@dataclass(frozen=True, kw_only=True, slots=True)
class ReconstructionInputs:
    """Operands of ``masked_loss`` and the upstream gradient, a scalar on the device."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor
    pixels: Tensor
    indices: Tensor
    upstream: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class ReconstructionShape:
    """n samples of F frames of S x S pixels, some tokens of each to predict from D dimensions; p pixels a side."""

    samples: int
    frames: int
    side: int
    masked: int
    width: int = 384
    patch: int = 16

    @property
    def values(self) -> int:
        """Pixel values to predict per token."""
        return 3 * _TUBELET * self.patch**2


def make_inputs(shape: ReconstructionShape, device: torch.device, dtype: torch.dtype) -> ReconstructionInputs:
    """Random pixels, normal hidden states and weights."""
    generator = torch.Generator(device=device).manual_seed(_SEED)
    tokens = max(1, shape.frames // _TUBELET) * (shape.side // shape.patch) ** 2

    def normal(*size: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*size, generator=generator, device=device, dtype=torch.float32) * scale).to(dtype)

    return ReconstructionInputs(
        hidden=normal(shape.samples * shape.masked, shape.width),
        weight=normal(shape.values, shape.width, scale=shape.width**-0.5),
        bias=normal(shape.values, scale=0.1),
        pixels=random_pixels(shape.samples, shape.frames, shape.side, device),
        indices=random_indices(shape.samples, tokens, shape.masked, device),
        upstream=torch.tensor(_UPSTREAM, device=device),
    )


def _case(name: str, shape: ReconstructionShape, *defaults: str) -> Case:
    tokens = shape.samples * shape.masked
    pixels = 3 * min(shape.frames, _TUBELET) * shape.patch**2
    return Case(
        name=name,
        op="reconstruction",
        inputs=lambda device, dtype: make_inputs(shape, device, dtype),
        floors=lambda dtype: floors.reconstruction(tokens, pixels, shape.values, shape.width, dtype.itemsize),
        defaults=frozenset(defaults),
        axes={"tokens": tokens},
    )


def _cases() -> Iterator[Case]:
    yield _case("clips", ReconstructionShape(samples=192, frames=16, side=160, masked=760), "cuda")
    yield _case("stills", ReconstructionShape(samples=192, frames=1, side=160, masked=90), "cuda")
    yield _case("clips_small", ReconstructionShape(samples=6, frames=16, side=160, masked=760), "cpu")
    yield _case("stills_small", ReconstructionShape(samples=16, frames=1, side=160, masked=90), "cpu")
    # Clips of the demonstration, and two of the sizes in the table beside the backends.
    yield _case("demo_clips", ReconstructionShape(samples=16, frames=16, side=64, masked=384, width=96, patch=8))
    yield _case("clips_1520", ReconstructionShape(samples=2, frames=16, side=160, masked=760))
    yield _case("tiny", ReconstructionShape(samples=2, frames=4, side=32, masked=3, width=16))


CASES = {case.name: case for case in _cases()}


def expected(inputs: ReconstructionInputs, dtype: torch.dtype) -> dict[str, Tensor]:
    """Loss and gradients by the definition, in ``dtype``."""
    run = _loss(inputs, "reference", dtype)
    outputs = run.forward()
    return run.results(outputs, run.backward(outputs))


def reductions(inputs: ReconstructionInputs) -> dict[str, int]:
    """Weight gradients are sums over tokens, the loss one over all values."""
    tokens = inputs.indices.shape[0]
    return {"loss": tokens * inputs.weight.shape[0], "d_weight": tokens, "d_bias": tokens}


def reconstruction_peers(case: Case) -> Iterator[Peer]:
    """All peers of one case, our backends first."""
    yield from backend_peers("reconstruction", BACKENDS, _loss)
    yield Peer(name="eager", build=_eager)
    yield Peer(name="liger", build=_liger)
    yield Peer(name="compiled", build=_compiled if case.name in _COMPILED_CASES else _left_out)


def call_backend(inputs: ReconstructionInputs, leaves: _Leaves, backend: str | None) -> Tensor:
    """The op's sum of losses."""
    return masked_loss(*leaves, inputs.pixels, inputs.indices, backend=backend)[0]


def _leaves(inputs: ReconstructionInputs, dtype: torch.dtype | None = None) -> _Leaves:
    def leaf(tensor: Tensor) -> Tensor:
        return tensor.detach().to(dtype or tensor.dtype).requires_grad_()

    return leaf(inputs.hidden), leaf(inputs.weight), leaf(inputs.bias)


def _run(inputs: ReconstructionInputs, leaves: _Leaves, forward: Callable[[], tuple[Tensor, ...]]) -> Run:
    upstream = inputs.upstream.double() if leaves[0].dtype == torch.float64 else inputs.upstream
    return Run(
        forward=forward,
        leaves=leaves,
        upstream=(upstream,),
        results=lambda outputs, gradients: dict(zip(_RESULTS, (outputs[0].view(1), *gradients), strict=True)),
    )


def _loss(inputs: ReconstructionInputs, name: str, dtype: torch.dtype | None = None) -> Run:
    leaves = _leaves(inputs, dtype)
    return _run(inputs, leaves, lambda: (call_backend(inputs, leaves, name),))


def _formula(hidden: Tensor, weight: Tensor, bias: Tensor, pixels: Tensor, indices: Tensor) -> Tensor:
    """Prediction, per-token normalised target, mean squared error, as one writes it down."""
    samples, frames, height, width, _ = pixels.shape
    patch = math.isqrt(weight.shape[0] // (3 * _TUBELET))
    rows, columns, depth = height // patch, width // patch, min(frames, _TUBELET)
    tubelets = pixels.view(samples, frames // depth, depth, rows, patch, columns, patch, 3)
    tubelets = tubelets.permute(0, 1, 3, 5, 2, 4, 6, 7)
    column, row = indices % columns, indices // columns % rows
    time = indices // (columns * rows) % (frames // depth)
    wanted = tubelets[indices // (columns * rows * (frames // depth)), time, row, column].float() / 255
    values = wanted.expand(-1, _TUBELET, -1, -1, -1).flatten(1, 3)
    target = (values - values.mean(1, keepdim=True)) / (values.var(1, keepdim=True) + _EPS).sqrt()
    return (linear(hidden, weight, bias) - target.flatten(1)).square().mean(1).sum()


def _eager(inputs: ReconstructionInputs) -> Run:
    leaves = _leaves(inputs)
    return _run(inputs, leaves, lambda: (_formula(*leaves, inputs.pixels, inputs.indices),))


def _liger(inputs: ReconstructionInputs) -> Run:
    raise AbsentError("its fused linear losses are over classes; none reconstructs pixels")


def _left_out(inputs: ReconstructionInputs) -> Run:
    raise AbsentError(f"compiled once per shape, so it runs in {', '.join(sorted(_COMPILED_CASES))} alone")


def _compiled(inputs: ReconstructionInputs) -> Run:
    import torch._functorch.config

    torch._dynamo.reset()
    # The timing of the backward alone calls it several times on one forward.
    torch._functorch.config.donated_buffer = False
    compiled = torch.compile(_formula, dynamic=False)
    leaves = _leaves(inputs)
    return _run(inputs, leaves, lambda: (compiled(*leaves, inputs.pixels, inputs.indices),))
