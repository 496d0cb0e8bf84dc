"""What only the Triton reconstruction promises: half precision over many tokens, launches, memory, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from launch_counting import counting, saved_bytes
from torch import Tensor

from kernels.backends import chosen
from kernels.numerics import check
from kernels.reconstruction import BACKENDS, masked_loss
from kernels.reconstruction.tiles import (
    HEAD,
    HIDDEN,
    RESIDUAL,
    select_head,
    select_hidden,
    select_residual,
    split_tokens,
)
from kernels.reconstruction.triton_op import triton_reconstruction

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The interpreter multiplies bfloat16 wrongly.
DTYPES = (torch.float32, torch.float16, *([torch.bfloat16] if DEVICE == "cuda" else []))
FACTS: dict[str, Any] = {"device": DEVICE, "dtype": torch.float32, "pixels": torch.uint8, "pixel_gradient": False}
NAMES = ("hidden", "weight", "bias")

if BACKENDS["triton"].refuse(FACTS) is not None:
    pytest.skip(f"triton: {BACKENDS['triton'].refuse(FACTS)}", allow_module_level=True)


def operands(tokens: int, *, dim: int = 20, patch: int = 4, frames: int = 4) -> dict[str, Tensor]:
    """Two clips of 2 x 3 patches and tokens in any order, some of them twice."""
    values = 6 * patch**2
    given = {
        "pixels": torch.randint(0, 256, (2, frames, 2 * patch, 3 * patch, 3), dtype=torch.uint8),
        "indices": torch.randint(0, 12 * max(1, frames // 2), (tokens,)),
        "hidden": torch.randn(tokens, dim),
        "weight": torch.randn(values, dim) * dim**-0.5,
        "bias": torch.randn(values) * 0.1,
    }
    return {name: tensor.to(DEVICE) for name, tensor in given.items()}


def results(given: dict[str, Tensor], dtype: torch.dtype, backend: str, upstream: float = 1.0) -> dict[str, Tensor]:
    """Loss and gradients with operands in ``dtype``."""
    leaves = [given[name].detach().to(dtype).requires_grad_() for name in NAMES]
    total, _ = masked_loss(*leaves, given["pixels"], given["indices"], backend=backend)
    gradients = torch.autograd.grad(total * upstream, leaves)
    return {"loss": total.detach(), **{f"d_{name}": g for name, g in zip(NAMES, gradients, strict=True)}}


def rounded(given: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: t.to(dtype) if t.is_floating_point() else t for name, t in given.items()}


@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("tokens", "dim", "patch", "frames"),
    [(127, 20, 4, 4), (129, 70, 2, 1), (3, 200, 6, 2), (2, 400, 4, 1), (300, 8, 2, 4), (0, 8, 2, 2)],
)
def test_tails_of_tiles_and_splits(tokens: int, dim: int, patch: int, frames: int, dtype: torch.dtype) -> None:
    given = rounded(operands(tokens, dim=dim, patch=patch, frames=frames), dtype)
    exact, native = (results(given, which, "reference", 48.0) for which in (torch.float64, dtype))
    for key, value in results(given, dtype, "triton", 48.0).items():
        check(value, native[key], exact[key], dtype, name=key)


def test_many_tokens_are_summed_in_splits_that_repeat_to_the_bit() -> None:
    given = operands(300, dim=8, patch=1)
    with counting() as started:
        results(given, torch.float32, "triton")
    head = next(launch for launch in started.launches if launch.name == "reconstruction_head_gradient_kernel")
    assert head.grid[1] > 1
    first, again = (results(given, torch.float32, "triton") for _ in range(2))
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_unscaled_sums_beyond_half_precision() -> None:
    """Sums over tokens reach 600,000, nine times the largest float16; scaled they are ordinary numbers."""
    given = operands(400, dim=16, patch=2)
    given["hidden"] = given["hidden"].abs() * 10
    given["bias"] = torch.full_like(given["bias"], 100.0)
    given["weight"] *= 0.01
    given = rounded(given, torch.float16)
    upstream = 1 / 64
    exact = results(given, torch.float64, "reference", upstream)
    unscaled = exact["d_weight"] * (24 / 2 / upstream)
    assert unscaled.abs().max() > 4 * torch.finfo(torch.float16).max
    ours = results(given, torch.float16, "triton", upstream)
    native = results(given, torch.float16, "reference", upstream)
    for key, value in ours.items():
        check(value, native[key], exact[key], torch.float16, name=key)


def test_a_loss_scale_and_its_accumulated_steps() -> None:
    """A scale of 2^14, as against underflow in float16, and two backward passes into one gradient."""
    given = rounded(operands(40), torch.float16)
    leaves = [given[name].clone().requires_grad_() for name in NAMES]
    for scale in (2.0**14, -(2.0**13)):
        total, count = masked_loss(*leaves, given["pixels"], given["indices"], backend="triton")
        (total / count * scale).backward()
    exact = results(given, torch.float64, "reference", 2.0**13 / 40)
    for name, leaf in zip(NAMES, leaves, strict=True):
        # Two rounded gradients of up to twice the size, added in float16.
        bound = 4e-3 * float(exact[f"d_{name}"].abs().max())
        torch.testing.assert_close(leaf.grad.double(), exact[f"d_{name}"], rtol=0, atol=bound)


@pytest.mark.parametrize("wanted", NAMES)
def test_gradients_that_no_one_wants_are_not_computed(wanted: str) -> None:
    given = operands(30)
    leaf = given[wanted].requires_grad_()
    expected = results(given, torch.float32, "reference")[f"d_{wanted}"]
    with counting() as started:
        total, _ = masked_loss(*(given[n] for n in NAMES), given["pixels"], given["indices"], backend="triton")
        started.restart()
        torch.autograd.grad(total, leaf, torch.ones_like(total))
    assert ("reconstruction_hidden_gradient_kernel" in started.kernels) == (wanted == "hidden")
    assert ("reconstruction_head_gradient_kernel" in started.kernels) == (wanted != "hidden")
    total, _ = masked_loss(*(given[n] for n in NAMES), given["pixels"], given["indices"], backend="triton")
    total.backward()
    torch.testing.assert_close(leaf.grad, expected, rtol=1e-5, atol=1e-5)


def test_launches_and_memory() -> None:
    """Two kernels forward, three backward, no other op; the residual is all that is kept."""
    given = operands(130, dim=24)
    leaves = [given[name].requires_grad_() for name in NAMES]
    residual = 130 * 96 * 4
    with saved_bytes(given.values()) as kept, counting() as started:
        total, _ = masked_loss(*leaves, given["pixels"], given["indices"], backend="triton")
        assert started.kernels == ["reconstruction_residual_kernel", "reconstruction_sum_kernel"]
        assert not started.ops and not started.waits, started.describe()
        started.restart()
        torch.autograd.grad(total, leaves, torch.ones_like(total))
    assert sum(kept.values()) == residual
    assert len(started.kernels) == 3
    assert sum(started.ops.values()) <= 1, started.describe()
    assert not started.waits


@pytest.mark.parametrize("enabled", [True, False])
def test_nothing_is_kept_where_no_gradient_can_follow(enabled: bool) -> None:
    given = operands(130, dim=24)
    leaves = [given[name].requires_grad_(not enabled) for name in NAMES]
    with torch.set_grad_enabled(enabled), counting() as started:
        total, _ = masked_loss(*leaves, given["pixels"], given["indices"], backend="triton")
    assert not total.requires_grad
    assert started.launches[0].constants["KEEP"] is False
    assert started.launches[0].arguments["residual"].numel() == 0


def test_loss_alone_equals_the_loss_in_training() -> None:
    given = operands(33)
    with torch.no_grad():
        alone, _ = masked_loss(*(given[n] for n in NAMES), given["pixels"], given["indices"], backend="triton")
    assert torch.equal(alone, results(given, torch.float32, "triton")["loss"])


def test_flat_patches_have_a_target_of_exactly_zero() -> None:
    given = operands(12)
    given["pixels"].fill_(201)
    total, _ = masked_loss(*(given[n] for n in NAMES), given["pixels"], given["indices"], backend="triton")
    prediction = torch.addmm(given["bias"].double(), given["hidden"].double(), given["weight"].double().t())
    torch.testing.assert_close(total.double(), prediction.square().mean(1).sum(), rtol=1e-6, atol=0)


def test_custom_op() -> None:
    given = operands(5)
    leaves = [given[name].requires_grad_() for name in NAMES]
    torch.library.opcheck(triton_reconstruction, (*leaves, given["pixels"], given["indices"], 2, True))


def test_refusals() -> None:
    refuse = BACKENDS["triton"].refuse
    assert refuse({**FACTS, "pixels": torch.float32}) == "reads uint8 pixels, not torch.float32"
    assert refuse({**FACTS, "dtype": torch.float64}) == "computes in float32, float16 and bfloat16, not torch.float64"
    assert refuse({**FACTS, "pixel_gradient": True}) == "gives no gradient to pixels"


def test_is_no_automatic_choice_on_a_cpu() -> None:
    given = {name: tensor.cpu() for name, tensor in operands(3).items()}
    masked_loss(*(given[n] for n in NAMES), given["pixels"], given["indices"])
    assert "triton" not in {name for call, name in chosen().items() if call.startswith("reconstruction(device=cpu")}


def test_tables_serve_every_architecture() -> None:
    for architecture, family in ((80, 80), (86, 80), (89, 80), (90, 90), (100, 100), (120, 80)):
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            key = (family, dtype != torch.float32)
            for largest, tile in RESIDUAL[key]:
                assert select_residual(architecture, dtype, 4096 if largest is None else largest) == tile
            assert select_hidden(architecture, dtype) == HIDDEN[key]
            assert select_head(architecture, dtype) == HEAD[key]


@pytest.mark.parametrize("tokens", [0, 1, 63, 64, 65, 145_920, 1_000_003])
@pytest.mark.parametrize("tiles", [1, 24, 1000])
def test_splits_cover_every_token_once(tokens: int, tiles: int) -> None:
    splits, size = split_tokens(90, tokens, tiles, 64)
    assert splits >= 1 and size >= 64 and size % 64 == 0
    assert splits * size >= tokens and (splits - 1) * size < max(tokens, 1)
