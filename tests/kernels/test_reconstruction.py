"""Every reconstruction backend against the definition, and the target against the released formula written out."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from kernels.backends import Facts
from kernels.numerics import check
from kernels.reconstruction import BACKENDS, masked_loss, patch_targets

RIVALS = [name for name in BACKENDS if name != "reference"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One call; operands in float64 hold values of the dtype under test."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor
    pixels: Tensor
    indices: Tensor
    tubelet: int = 2


def case(
    frames: int = 4, *, dtype: torch.dtype = torch.float64, patch: int = 8, tubelet: int = 2, tokens: int | None = None
) -> Case:
    """Three clips of 2 x 3 patches with most of their tokens to predict."""
    total = 3 * (1 if frames == 1 else frames // tubelet) * 6
    count = total - 5 if tokens is None else tokens
    values = tubelet * patch**2 * 3

    def normal(*size: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*size, dtype=torch.float64) * scale).to(dtype).double()

    return Case(
        hidden=normal(count, 20),
        weight=normal(values, 20, scale=20**-0.5),
        bias=normal(values, scale=0.1),
        pixels=torch.randint(0, 256, (3, frames, 2 * patch, 3 * patch, 3), dtype=torch.uint8),
        indices=torch.randperm(total)[:count].sort().values,
        tubelet=tubelet,
    )


CASES = {
    "clip": {},
    "still": {"frames": 1},
    "long tubelet": {"frames": 6, "tubelet": 3, "patch": 4},
    "one-frame tubelet": {"frames": 3, "tubelet": 1, "patch": 5},
    "one token": {"tokens": 1},
    "no token": {"tokens": 0},
}


def usable(name: str, dtype: torch.dtype) -> None:
    """Skip with its reason what the backend refuses."""
    facts: Facts = {"device": "cpu", "dtype": dtype, "pixels": torch.uint8, "pixel_gradient": False}
    reason = BACKENDS[name].refuse(facts)
    if reason is not None:
        pytest.skip(reason)


def results(given: Case, backend: str, dtype: torch.dtype, upstream: float = 1.0) -> dict[str, Tensor]:
    """Loss and gradients of one backend with operands in ``dtype``."""
    leaves = [t.detach().to(dtype).requires_grad_() for t in (given.hidden, given.weight, given.bias)]
    total, count = masked_loss(*leaves, given.pixels, given.indices, tubelet_size=given.tubelet, backend=backend)
    assert count == given.indices.shape[0]
    assert total.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    total.backward(torch.tensor(upstream, dtype=total.dtype))
    found = {"loss": total.detach()}
    for name, leaf in zip(("d_hidden", "d_weight", "d_bias"), leaves, strict=True):
        assert leaf.grad is not None and leaf.grad.dtype == dtype
        found[name] = leaf.grad
    return found


@pytest.mark.parametrize("upstream", [1.0, 48.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", RIVALS)
def test_backend_equals_definition(backend: str, name: str, dtype: torch.dtype, upstream: float) -> None:
    usable(backend, dtype)
    given = case(**CASES[name], dtype=dtype)
    exact = results(given, "reference", torch.float64, upstream)
    native = results(given, "reference", dtype, upstream)
    ours = results(given, backend, dtype, upstream)
    for key, value in ours.items():
        if dtype == torch.float64:
            # Pixels are uint8 and the target follows the dtype of hidden.
            torch.testing.assert_close(value, exact[key], rtol=1e-12, atol=1e-12, msg=key)
        else:
            check(value, native[key], exact[key], dtype, name=f"{backend} {key}")


def released_target(pixels: Tensor, index: int, patch: int, tubelet: int) -> Tensor:
    """Target of one token of float frames in [0, 1], channel by channel; a single frame is repeated first."""
    if pixels.shape[1] == 1:
        pixels = pixels.repeat(1, tubelet, 1, 1, 1)
    _, frames, height, width, _ = pixels.shape
    columns, rows, slices = width // patch, height // patch, frames // tubelet
    sample, rest = divmod(index, slices * rows * columns)
    slice_, rest = divmod(rest, rows * columns)
    row, column = divmod(rest, columns)
    block = pixels[
        sample,
        slice_ * tubelet : (slice_ + 1) * tubelet,
        row * patch : (row + 1) * patch,
        column * patch : (column + 1) * patch,
    ]
    values = block.reshape(-1, 3)
    return torch.cat(
        [((v - v.mean()) / (v.var(unbiased=True) + 1e-6) ** 0.5)[:, None] for v in values.t()], 1
    ).flatten()


@pytest.mark.parametrize("name", ["clip", "still", "long tubelet", "one-frame tubelet"])
def test_target_is_the_released_formula(name: str) -> None:
    given = case(**CASES[name])
    patch = round((given.weight.shape[0] / 3 / given.tubelet) ** 0.5)
    floats = given.pixels.double() / 255
    target = patch_targets(floats, given.indices, patch, given.tubelet)
    for row, index in zip(target, given.indices.tolist(), strict=True):
        torch.testing.assert_close(row, released_target(floats, index, patch, given.tubelet), rtol=1e-11, atol=1e-11)
    of_bytes = patch_targets(given.pixels, given.indices, patch, given.tubelet)
    assert of_bytes.dtype == torch.float32
    torch.testing.assert_close(of_bytes.double(), target, rtol=2e-6, atol=2e-6)


def test_flat_patch_has_a_finite_target() -> None:
    pixels = torch.full((1, 2, 8, 8, 3), 200, dtype=torch.uint8)
    target = patch_targets(pixels, torch.tensor([0]), 8, 2)
    # The mean of 128 equal float32 values may be off by a rounding; 1e-3 is the root of the added variance.
    assert target.abs().max() < 1e-6 / 1e-3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_still_image_is_a_clip_of_equal_frames(backend: str, dtype: torch.dtype) -> None:
    usable(backend, dtype)
    still = case(1)
    clip = Case(
        hidden=still.hidden,
        weight=still.weight,
        bias=still.bias,
        pixels=still.pixels.expand(-1, 2, -1, -1, -1),
        indices=still.indices,
    )
    of_still, of_clip = (results(given, backend, dtype) for given in (still, clip))
    bound = 1e-12 if dtype == torch.float64 else 2e-5
    for key, value in of_still.items():
        torch.testing.assert_close(value, of_clip[key], rtol=bound, atol=bound, msg=key)


@pytest.mark.parametrize("frames", [1, 4])
def test_gradcheck_of_the_definition(frames: int) -> None:
    given = case(frames, patch=2, tokens=3)
    pixels = torch.rand(given.pixels.shape, dtype=torch.float64, requires_grad=True)

    def function(hidden: Tensor, weight: Tensor, bias: Tensor, pixels: Tensor) -> Tensor:
        return masked_loss(hidden, weight, bias, pixels, given.indices, backend="reference")[0]

    leaves = [t.clone().requires_grad_() for t in (given.hidden, given.weight, given.bias)]
    assert torch.autograd.gradcheck(function, (*leaves, pixels))
    with pytest.raises(ValueError, match="'fused' cannot serve this call: gives no gradient to pixels"):
        masked_loss(*leaves, pixels, given.indices, backend="fused")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("backend", RIVALS)
def test_gradients_accumulate_over_two_steps(backend: str, dtype: torch.dtype) -> None:
    usable(backend, dtype)
    given = case(dtype=dtype)
    leaves = [t.to(dtype, copy=True).requires_grad_() for t in (given.hidden, given.weight, given.bias)]
    for scale in (0.25, -2.0):
        (masked_loss(*leaves, given.pixels, given.indices, backend=backend)[0] * scale).backward()
    exact = results(given, "reference", torch.float64, -1.75)
    for name, leaf in zip(("d_hidden", "d_weight", "d_bias"), leaves, strict=True):
        bound = 1e-12 if dtype == torch.float64 else 2e-6
        torch.testing.assert_close(leaf.grad.double(), exact[name], rtol=bound, atol=bound, msg=name)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("backend", RIVALS)
def test_backward_twice_gives_the_same(backend: str, dtype: torch.dtype) -> None:
    usable(backend, dtype)
    given = case(dtype=dtype)
    leaves = [t.to(dtype, copy=True).requires_grad_() for t in (given.hidden, given.weight, given.bias)]
    total, _ = masked_loss(*leaves, given.pixels, given.indices, backend=backend)
    first = torch.autograd.grad(total, leaves, retain_graph=True)
    for a, b in zip(first, torch.autograd.grad(total, leaves), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("backend", RIVALS)
def test_small_upstream_gradient_survives_half_precision(backend: str) -> None:
    usable(backend, torch.float16)
    given = case(dtype=torch.float16)
    # The scale of the residual, 2 * 6e-3 / 384, has 5 bits left in float16.
    tiny = results(given, backend, torch.float16, 6e-3)
    exact = results(given, "reference", torch.float64, 6e-3)
    for key in ("d_weight", "d_bias"):
        # Twice what float16 resolves at the gradient's size, 1e-3 relative, and its smallest step of 6e-8.
        torch.testing.assert_close(
            tiny[key].double(), exact[key], rtol=2e-3, atol=6e-8 + 2e-3 * float(exact[key].abs().max())
        )


def saved_bytes(given: Case, backend: str, dtype: torch.dtype) -> int:
    """Bytes kept for the backward beside the operands themselves."""
    leaves = [t.detach().to(dtype).requires_grad_() for t in (given.hidden, given.weight, given.bias)]
    known = {leaf.untyped_storage().data_ptr() for leaf in leaves}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        total, _ = masked_loss(*leaves, given.pixels, given.indices, backend=backend)
    assert total.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_forward_keeps_the_residual_alone(dtype: torch.dtype) -> None:
    given = case(dtype=dtype)
    residual = given.indices.shape[0] * given.weight.shape[0] * dtype.itemsize
    assert saved_bytes(given, "fused", dtype) == residual
    assert saved_bytes(given, "reference", dtype) >= residual


@pytest.mark.parametrize("backend", RIVALS)
def test_traces_without_breaks(backend: str) -> None:
    usable(backend, torch.float32)
    given = case()
    leaves = [t.float().requires_grad_() for t in (given.hidden, given.weight, given.bias)]

    @torch.compile(backend="aot_eager", fullgraph=True)
    def compiled(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return masked_loss(hidden, weight, bias, given.pixels, given.indices, backend=backend)[0]

    compiled(*leaves).backward()
    eager = results(given, backend, torch.float32)
    for name, leaf in zip(("d_hidden", "d_weight", "d_bias"), leaves, strict=True):
        torch.testing.assert_close(leaf.grad, eager[name])


def test_bad_calls_are_refused() -> None:
    given = case()
    with pytest.raises(ValueError, match=r"hidden: expected \(31, D\)"):
        masked_loss(given.hidden[1:], given.weight, given.bias, given.pixels, given.indices)
    with pytest.raises(ValueError, match=r"head_weight: expected \(2 \* p \* p \* 3, 20\), got \(383, 20\)"):
        masked_loss(given.hidden, given.weight[1:], given.bias, given.pixels, given.indices)
    with pytest.raises(ValueError, match=r"head_bias: expected \(384,\)"):
        masked_loss(given.hidden, given.weight, given.bias[1:], given.pixels, given.indices)
    with pytest.raises(ValueError, match="expected one dtype"):
        masked_loss(given.hidden.float(), given.weight, given.bias, given.pixels, given.indices)
