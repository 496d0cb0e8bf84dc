"""Cases of the patch embedding: clips at 95 % and stills at 90 % masking, with their peers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import conv3d

from kernels.bench import floors
from kernels.bench.backend_peers import backend_peers
from kernels.bench.records import Case, Peer, Run
from kernels.patch import BACKENDS, embed_visible

_TUBELET = 2
_RESULTS = ("output", "d_weight", "d_bias")
_SEED = 22


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchShape:
    """n samples of F frames of S x S pixels, some tokens of each kept, embedded in D dimensions; p pixels a side."""

    samples: int
    frames: int
    side: int
    kept: int
    width: int = 768
    patch: int = 16

    @property
    def tokens(self) -> int:
        """Tokens of one sample."""
        return max(1, self.frames // _TUBELET) * (self.side // self.patch) ** 2

    @property
    def values(self) -> int:
        """Pixel values read per token; a still image has one frame."""
        return 3 * min(self.frames, _TUBELET) * self.patch**2


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchInputs:
    """Operands of ``embed_visible`` and the upstream gradient (M, D)."""

    pixels: Tensor
    indices: Tensor
    weight: Tensor
    bias: Tensor
    mean: Tensor
    std: Tensor
    upstream: Tensor


def random_indices(samples: int, tokens: int, kept: int, device: torch.device) -> Tensor:
    """``kept`` tokens of each sample in ascending order, (samples * kept,) int64."""
    generator = torch.Generator().manual_seed(_SEED)
    order = torch.rand(samples, tokens, generator=generator).argsort(1)[:, :kept].sort(1).values
    return (order + tokens * torch.arange(samples)[:, None]).flatten().to(device)


def random_pixels(samples: int, frames: int, side: int, device: torch.device) -> Tensor:
    """Uniform uint8 pixels (n, F, S, S, 3)."""
    generator = torch.Generator(device=device).manual_seed(_SEED)
    size = (samples, frames, side, side, 3)
    return torch.randint(0, 256, size, generator=generator, device=device, dtype=torch.uint8)


def make_inputs(shape: PatchShape, device: torch.device, dtype: torch.dtype) -> PatchInputs:
    """Random pixels and normal weights."""
    generator = torch.Generator(device=device).manual_seed(_SEED)

    def normal(*size: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*size, generator=generator, device=device, dtype=torch.float32) * scale).to(dtype)

    return PatchInputs(
        pixels=random_pixels(shape.samples, shape.frames, shape.side, device),
        indices=random_indices(shape.samples, shape.tokens, shape.kept, device),
        weight=normal(shape.width, 3, _TUBELET, shape.patch, shape.patch, scale=0.03),
        bias=normal(shape.width, scale=0.1),
        mean=torch.tensor([0.485, 0.456, 0.406], device=device),
        std=torch.tensor([0.229, 0.224, 0.225], device=device),
        upstream=normal(shape.samples * shape.kept, shape.width),
    )


def _case(name: str, shape: PatchShape, *defaults: str) -> Case:
    return Case(
        name=name,
        op="patch",
        inputs=lambda device, dtype: make_inputs(shape, device, dtype),
        floors=lambda dtype: floors.patch(shape.samples * shape.kept, shape.values, shape.width, dtype.itemsize),
        defaults=frozenset(defaults),
        axes={"tokens": shape.samples * shape.kept},
    )


def _cases() -> Iterator[Case]:
    yield _case("clips95", PatchShape(samples=192, frames=16, side=160, kept=40), "cuda")
    yield _case("stills90", PatchShape(samples=192, frames=1, side=160, kept=10), "cuda")
    yield _case("clips95_small", PatchShape(samples=8, frames=16, side=160, kept=40), "cpu")
    yield _case("stills90_small", PatchShape(samples=32, frames=1, side=160, kept=10), "cpu")
    # Clips of the demonstration, and fine-tuning's every token.
    yield _case("demo_clips", PatchShape(samples=16, frames=16, side=64, kept=26, width=128, patch=8))
    yield _case("clips_all", PatchShape(samples=2, frames=16, side=160, kept=800))
    yield _case("tiny", PatchShape(samples=2, frames=4, side=32, kept=3, width=16))


CASES = {case.name: case for case in _cases()}


def expected(inputs: PatchInputs, dtype: torch.dtype) -> dict[str, Tensor]:
    """Output and gradients by the definition, in ``dtype``."""
    run = _embedding(inputs, "reference", dtype)
    outputs = run.forward()
    return run.results(outputs, run.backward(outputs))


def reductions(inputs: PatchInputs) -> dict[str, int]:
    """Weight gradients are sums over tokens."""
    return dict.fromkeys(_RESULTS[1:], inputs.indices.shape[0])


def call_backend(inputs: PatchInputs, weight: Tensor, bias: Tensor, backend: str | None) -> Tensor:
    """The op's output (M, D)."""
    return embed_visible(inputs.pixels, inputs.indices, weight, bias, inputs.mean, inputs.std, backend=backend)


def patch_peers(case: Case) -> Iterator[Peer]:
    """All peers of one case, our backends first."""
    yield from backend_peers("patch", BACKENDS, _embedding)
    yield Peer(name="conv3d_ready", build=lambda inputs: _convolution(inputs, ready=True))
    yield Peer(name="conv3d_normalise", build=lambda inputs: _convolution(inputs, ready=False))


def _run(inputs: PatchInputs, weight: Tensor, bias: Tensor, forward: Callable[[], tuple[Tensor, ...]]) -> Run:
    return Run(
        forward=forward,
        leaves=(weight, bias),
        upstream=(inputs.upstream.to(weight.dtype),),
        results=lambda outputs, gradients: dict(zip(_RESULTS, (*outputs, *gradients), strict=True)),
    )


def _embedding(inputs: PatchInputs, name: str, dtype: torch.dtype | None = None) -> Run:
    weight, bias = (
        tensor.detach().to(dtype or tensor.dtype).requires_grad_() for tensor in (inputs.weight, inputs.bias)
    )
    return _run(inputs, weight, bias, lambda: (call_backend(inputs, weight, bias, name),))


def _convolution(inputs: PatchInputs, *, ready: bool) -> Run:
    """Every tubelet embedded by Conv3d, then the wanted ones selected.

    ``ready`` starts from normalised float frames, whose making is not counted; else they are made in every call.
    """
    weight, bias = inputs.weight.detach().requires_grad_(), inputs.bias.detach().requires_grad_()

    def frames() -> Tensor:
        values = (inputs.pixels.float() / 255 - inputs.mean) / inputs.std
        values = values.to(weight.dtype).permute(0, 4, 1, 2, 3)
        return values.repeat(1, 1, _TUBELET, 1, 1) if values.shape[2] == 1 else values.contiguous()

    prepared = frames() if ready else None

    def forward() -> tuple[Tensor, ...]:
        embedded = conv3d(frames() if prepared is None else prepared, weight, bias, stride=weight.shape[2:])
        return (embedded.flatten(2).transpose(1, 2).flatten(0, 1).index_select(0, inputs.indices),)

    return _run(inputs, weight, bias, forward)
