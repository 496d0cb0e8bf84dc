"""What only the Triton patch embedding promises: exact values in the load, splits, launches, memory, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from launch_counting import counting, saved_bytes
from torch import Tensor

from kernels.backends import chosen
from kernels.numerics import check
from kernels.patch import BACKENDS, Erase, Mix, embed_visible
from kernels.patch.tiles import FORWARD, GRADIENT, select_forward, select_gradient, split_tokens
from kernels.patch.triton_op import triton_patch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MEAN, STD = torch.tensor([0.485, 0.456, 0.406], device=DEVICE), torch.tensor([0.229, 0.224, 0.225], device=DEVICE)
# The interpreter multiplies bfloat16 wrongly.
DTYPES = (torch.float32, torch.float16, *([torch.bfloat16] if DEVICE == "cuda" else []))
FACTS: dict[str, Any] = {"device": DEVICE, "dtype": torch.float32, "pixels": torch.uint8, "pixel_gradient": False}

if BACKENDS["triton"].refuse(FACTS) is not None:
    pytest.skip(f"triton: {BACKENDS['triton'].refuse(FACTS)}", allow_module_level=True)


def operands(tokens: int, *, patch: int = 4, columns: int = 24, frames: int = 2) -> dict[str, Tensor]:
    """One clip of 2 x 3 patches and wanted tokens in any order, some of them twice."""
    given = {
        "pixels": torch.randint(0, 256, (1, frames, 2 * patch, 3 * patch, 3), dtype=torch.uint8),
        "indices": torch.randint(0, 6 * max(1, frames // 2), (tokens,)),
        "weight": torch.randn(columns, 3, 2, patch, patch) * (6 * patch**2) ** -0.5,
        "bias": torch.randn(columns) * 0.1,
    }
    return {name: tensor.to(DEVICE) for name, tensor in given.items()}


def results(given: dict[str, Tensor], dtype: torch.dtype, backend: str, upstream: Tensor) -> dict[str, Tensor]:
    """Output and gradients with weights in ``dtype``."""
    weight, bias = (given[name].detach().to(dtype).requires_grad_() for name in ("weight", "bias"))
    output = embed_visible(given["pixels"], given["indices"], weight, bias, MEAN, STD, backend=backend)
    d_weight, d_bias = torch.autograd.grad(output, (weight, bias), upstream.to(dtype))
    return {"output": output.detach(), "d_weight": d_weight, "d_bias": d_bias}


@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("tokens", "patch", "columns", "frames"),
    [(64, 2, 136, 2), (65, 4, 24, 1), (5, 14, 8, 1), (530, 2, 8, 4), (0, 4, 8, 2)],
)
def test_tails_of_tiles_and_splits(tokens: int, patch: int, columns: int, frames: int, dtype: torch.dtype) -> None:
    given = operands(tokens, patch=patch, columns=columns, frames=frames)
    given = {name: t if name in ("pixels", "indices") else t.to(dtype) for name, t in given.items()}
    upstream = torch.randn(tokens, columns).to(DEVICE, dtype)
    exact = results(given, torch.float64, "reference", upstream)
    native = results(given, dtype, "reference", upstream)
    for key, value in results(given, dtype, "triton", upstream).items():
        check(value, native[key], exact[key], dtype, name=key)


def test_many_tokens_are_summed_in_splits_that_repeat_to_the_bit() -> None:
    given = operands(530, patch=1, columns=8)
    upstream = torch.randn(530, 8).to(DEVICE)
    with counting() as started:
        results(given, torch.float32, "triton", upstream)
    gradient = next(launch for launch in started.launches if launch.name == "patch_gradient_kernel")
    assert gradient.grid[1] > 1
    first, again = (results(given, torch.float32, "triton", upstream) for _ in range(2))
    assert all(torch.equal(first[key], again[key]) for key in first)


@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize("boxes", [False, True])
def test_values_are_those_of_the_definition(noise: bool, boxes: bool) -> None:
    """An identity for a weight shows the values themselves."""
    with torch.device(DEVICE):
        values_are_those_of_the_definition(noise, boxes)


def values_are_those_of_the_definition(noise: bool, boxes: bool) -> None:
    pixels = torch.randint(0, 256, (2, 1, 8, 12, 3), dtype=torch.uint8)
    mix_box = torch.tensor([[1, 2, 6, 9], [0, 0, 0, 0]], dtype=torch.int32) if boxes else None
    mix = Mix(partner=torch.tensor([1, 0]), lam=torch.tensor([0.25, 0.7]), box=mix_box)
    box = torch.tensor([[0, 3, 7, 12], [2, 0, 8, 8]], dtype=torch.int32)
    erase = Erase(box=box, seed=torch.tensor([-3, 1 << 50]), noise=noise)
    weight = torch.eye(48).view(48, 3, 1, 4, 4)

    def values(backend: str) -> Tensor:
        indices, bias = torch.arange(12), torch.zeros(48)
        return embed_visible(pixels, indices, weight, bias, MEAN, STD, mix=mix, erase=erase, backend=backend)

    torch.testing.assert_close(values("triton"), values("reference"), rtol=2e-6, atol=2e-6)


def test_a_gradient_that_no_one_wants_is_none() -> None:
    given = operands(7)
    bias = given["bias"].requires_grad_()
    output = embed_visible(given["pixels"], given["indices"], given["weight"], bias, MEAN, STD, backend="triton")
    output.sum().backward()
    assert given["weight"].grad is None
    torch.testing.assert_close(bias.grad, torch.full_like(bias, 7.0))


@pytest.mark.parametrize("frames", [1, 2])
def test_launches_and_memory(frames: int) -> None:
    """One kernel forward beside the copy of the weight, two backward; no float pixel is kept or even made."""
    given = operands(40, patch=16, columns=32, frames=frames)
    weight, bias = given["weight"].requires_grad_(), given["bias"].requires_grad_()
    with saved_bytes(given.values()) as kept, counting() as started:
        output = embed_visible(given["pixels"], given["indices"], weight, bias, MEAN, STD, backend="triton")
        assert started.kernels == ["patch_embed_kernel"]
        assert set(started.ops) <= {"clone", "sum", "copy_", "_to_copy"}
        assert sum(started.ops.values()) == (2 if frames == 1 else 1), started.describe()
        assert not started.waits
        assert started.workspace <= weight.numel() * 2 * weight.itemsize
        started.restart()
        torch.autograd.grad(output, (weight, bias), torch.ones_like(output))
    assert started.kernels == ["patch_gradient_kernel", "patch_gradient_sum_kernel"]
    assert sum(started.ops.values()) <= 1, started.describe()
    assert not started.waits
    assert sum(kept.values()) <= 2 * 3 * 4


def test_custom_op() -> None:
    given = operands(5)
    weight, bias = given["weight"].requires_grad_(), given["bias"].requires_grad_()
    erase = (torch.tensor([[0, 0, 5, 5]], dtype=torch.int32, device=DEVICE), torch.tensor([3], device=DEVICE))
    arguments = (weight, bias, given["pixels"], given["indices"], MEAN, STD, *erase, None, None, None, True, 2)
    torch.library.opcheck(triton_patch, arguments)


def test_refusals() -> None:
    refuse = BACKENDS["triton"].refuse
    assert refuse({**FACTS, "pixels": torch.float32}) == "reads uint8 pixels, not torch.float32"
    assert refuse({**FACTS, "dtype": torch.float64}) == "computes in float32, float16 and bfloat16, not torch.float64"
    assert refuse({**FACTS, "pixel_gradient": True}) == "gives no gradient to pixels"


def test_is_no_automatic_choice_on_a_cpu() -> None:
    given = {name: tensor.cpu() for name, tensor in operands(3).items()}
    embed_visible(given["pixels"], given["indices"], given["weight"], given["bias"], MEAN.cpu(), STD.cpu())
    assert "triton" not in {name for call, name in chosen().items() if call.startswith("patch(device=cpu")}


def test_tables_serve_every_architecture() -> None:
    for architecture, family in ((80, 80), (86, 80), (89, 80), (90, 90), (100, 100), (120, 80)):
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            for load in ("plain", "changed", "noise"):
                key = (family, dtype != torch.float32, load)
                assert tuple(select_forward(architecture, dtype, n, load) for n in (1, 100_000)) == FORWARD[key]
                assert select_gradient(architecture, dtype, load) == GRADIENT[key]


@pytest.mark.parametrize("tokens", [0, 1, 31, 32, 33, 7680, 12_801, 1_000_003])
@pytest.mark.parametrize("tiles", [1, 78, 1000])
def test_splits_cover_every_token_once(tokens: int, tiles: int) -> None:
    splits, size = split_tokens(90, tokens, tiles, 32)
    assert splits >= 1 and size >= 32 and size % 32 == 0
    assert splits * size >= tokens and (splits - 1) * size < max(tokens, 1)


def test_offsets_past_31_bits() -> None:
    """2.2 GB of pixels of which only the last tubelet is ever touched."""
    samples = 2**31 // (3 * 16 * 16) + 3
    pixels = torch.empty(samples, 1, 16, 16, 3, dtype=torch.uint8, device=DEVICE)
    pixels[-1] = torch.randint(0, 256, (1, 16, 16, 3), dtype=torch.uint8)
    weight, bias = (torch.randn(8, 3, 1, 16, 16) * 0.04).to(DEVICE), torch.zeros(8, device=DEVICE)
    last, first = torch.tensor([samples - 1], device=DEVICE), torch.tensor([0], device=DEVICE)
    far = embed_visible(pixels, last, weight, bias, MEAN, STD, backend="triton")
    near = embed_visible(pixels[-1:].clone(), first, weight, bias, MEAN, STD, backend="triton")
    assert torch.equal(far, near)
