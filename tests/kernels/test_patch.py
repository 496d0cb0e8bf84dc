"""Every patch-embedding backend against the definition, and the definition against a convolution over ready frames."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from kernels.backends import Facts
from kernels.numerics import check
from kernels.patch import BACKENDS, Erase, Mix, embed_visible
from kernels.patch.pixels import erase_noise, inside
from kernels.patch.tubelets import gather_tubelets, token_grid, token_pixels, unfold_tubelets

RIVALS = [name for name in BACKENDS if name != "reference"]
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One call: pixels, weights and what is done to the pixels."""

    pixels: Tensor
    indices: Tensor
    weight: Tensor
    bias: Tensor
    mix: Mix | None = None
    erase: Erase | None = None


def case(frames: int = 4, *, samples: int = 3, patch: int = 8, tubelet: int = 2, width: int = 24) -> Case:
    """Random clips of 2 x 3 patches with about half of their tokens wanted."""
    slices = 1 if frames == 1 else frames // tubelet
    tokens = samples * slices * 6
    return Case(
        pixels=torch.randint(0, 256, (samples, frames, 2 * patch, 3 * patch, 3), dtype=torch.uint8),
        indices=torch.randperm(tokens)[: (tokens + 1) // 2].sort().values,
        weight=torch.randn(width, 3, tubelet, patch, patch, dtype=torch.float64) * (3 * tubelet * patch**2) ** -0.5,
        bias=torch.randn(width, dtype=torch.float64) * 0.1,
    )


def with_mixup(given: Case) -> Case:
    n = given.pixels.shape[0]
    return replace(given, mix=Mix(partner=torch.arange(n - 1, -1, -1), lam=torch.tensor([0.3, 1.0, 0.75])[:n]))


def with_cutmix(given: Case) -> Case:
    n = given.pixels.shape[0]
    box = torch.tensor([[2, 3, 11, 20], [0, 0, 0, 0], [5, 5, 5, 9]], dtype=torch.int32)[:n]
    return replace(given, mix=Mix(partner=torch.arange(n).roll(1), lam=torch.tensor([0.3, 0.6, 0.5])[:n], box=box))


def with_erasing(given: Case, *, noise: bool) -> Case:
    n = given.pixels.shape[0]
    box = torch.tensor([[1, 2, 12, 17], [0, 0, 0, 0], [7, 0, 16, 24]], dtype=torch.int32)[:n]
    return replace(given, erase=Erase(box=box, seed=torch.tensor([-5, 1 << 40, 77])[:n], noise=noise))


CASES = {
    "clip": case,
    "still": lambda: case(1),
    "long tubelet": lambda: case(6, tubelet=3, patch=4),
    "one-frame tubelet": lambda: case(3, tubelet=1, patch=5),
    "mixup": lambda: with_mixup(case()),
    "cutmix": lambda: with_cutmix(case()),
    "black box": lambda: with_erasing(case(), noise=False),
    "noise box": lambda: with_erasing(case(), noise=True),
    "still, everything": lambda: with_cutmix(with_erasing(case(1), noise=True)),
    "clip, everything": lambda: with_mixup(with_erasing(case(), noise=True)),
    "no token": lambda: replace(case(), indices=torch.zeros(0, dtype=torch.int64)),
    "one token": lambda: replace(case(), indices=torch.tensor([7])),
    "repeated tokens": lambda: replace(case(), indices=torch.tensor([5, 0, 5, 5])),
}


def usable(name: str, dtype: torch.dtype, pixels: torch.dtype = torch.uint8) -> str:
    """The backend's name, or a skip with its reason."""
    facts: Facts = {"device": "cpu", "dtype": dtype, "pixels": pixels, "pixel_gradient": False}
    reason = BACKENDS[name].refuse(facts)
    if reason is not None:
        pytest.skip(reason)
    return name


def embed(given: Case, backend: str, dtype: torch.dtype, upstream: Tensor) -> dict[str, Tensor]:
    """Output and gradients with weights in ``dtype``."""
    weight, bias = (t.detach().to(dtype).requires_grad_() for t in (given.weight, given.bias))
    output = embed_visible(
        given.pixels, given.indices, weight, bias, MEAN, STD, mix=given.mix, erase=given.erase, backend=backend
    )
    assert output.dtype == dtype
    output.backward(upstream.to(dtype))
    assert weight.grad is not None and bias.grad is not None
    return {"output": output.detach(), "d_weight": weight.grad, "d_bias": bias.grad}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", RIVALS)
def test_backend_equals_definition(backend: str, name: str, dtype: torch.dtype) -> None:
    usable(backend, dtype)
    given = CASES[name]()
    given = replace(given, weight=given.weight.to(dtype).double(), bias=given.bias.to(dtype).double())
    upstream = torch.randn(given.indices.shape[0], given.weight.shape[0]).to(dtype)
    exact = embed(given, "reference", torch.float64, upstream)
    native = embed(given, "reference", dtype, upstream)
    ours = embed(given, backend, dtype, upstream)
    for key, value in ours.items():
        if dtype == torch.float64:
            torch.testing.assert_close(value, exact[key], rtol=1e-12, atol=1e-12, msg=key)
        else:
            check(value, native[key], exact[key], dtype, name=f"{backend} {key}")


def convolved(frames: Tensor, given: Case) -> Tensor:
    """Embedding of all tokens of ready float frames (n, F, H, W, 3) by a strided convolution."""
    stride = tuple(given.weight.shape[2:])
    clips = frames.permute(0, 4, 1, 2, 3)
    return torch.nn.functional.conv3d(clips, given.weight, given.bias, stride).flatten(2).transpose(1, 2).flatten(0, 1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_is_a_convolution_over_normalised_frames(backend: str) -> None:
    usable(backend, torch.float64, torch.uint8)
    given = case()
    frames = (given.pixels.double() / 255 - MEAN.double()) / STD.double()
    ours = embed_visible(given.pixels, given.indices, given.weight, given.bias, MEAN, STD, backend=backend)
    torch.testing.assert_close(ours, convolved(frames, given)[given.indices], rtol=1e-12, atol=1e-12)
    if backend != "native":
        ready = embed_visible(frames, given.indices, given.weight, given.bias, MEAN, STD, backend=backend)
        torch.testing.assert_close(ready, ours, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", ["reference", "gather"])
def test_mixing_is_exact_on_frames(backend: str) -> None:
    given = with_mixup(case())
    assert given.mix is not None
    frames = (given.pixels.double() / 255 - MEAN.double()) / STD.double()
    lam = given.mix.lam.double()[:, None, None, None, None]
    expected = convolved(lam * frames + (1 - lam) * frames[given.mix.partner], given)[given.indices]
    ours = embed(given, backend, torch.float64, torch.zeros_like(expected))["output"]
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", ["reference", "gather"])
def test_cutmix_pastes_the_partner(backend: str) -> None:
    given = with_cutmix(case())
    assert given.mix is not None
    frames = (given.pixels.double() / 255 - MEAN.double()) / STD.double()
    expected_frames = frames.clone()
    expected_frames[0, :, 2:11, 3:20] = frames[2, :, 2:11, 3:20]
    for sample, lam in ((1, given.mix.lam[1].double()), (2, given.mix.lam[2].double())):
        expected_frames[sample] = lam * frames[sample] + (1 - lam) * frames[sample - 1]
    expected = convolved(expected_frames, given)[given.indices]
    ours = embed(given, backend, torch.float64, torch.zeros_like(expected))["output"]
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_black_box_is_erased_before_normalisation(backend: str) -> None:
    usable(backend, torch.float32)
    given = with_erasing(case(), noise=False)
    painted = given.pixels.clone()
    painted[0, :, 1:12, 2:17] = 0
    painted[2, :, 7:16, 0:24] = 0
    upstream = torch.zeros(given.indices.shape[0], given.weight.shape[0])
    erased = embed(given, backend, torch.float32, upstream)["output"]
    by_hand = embed(replace(given, pixels=painted, erase=None), backend, torch.float32, upstream)["output"]
    torch.testing.assert_close(erased, by_hand, rtol=1e-5, atol=1e-5)


def test_erase_noise_is_unit_normal_and_depends_on_seed_and_pixel_only() -> None:
    pixel = torch.arange(40_000)
    values = erase_noise(torch.full_like(pixel, 12345), pixel)
    assert values.shape == (40_000, 3)
    # Standard errors: 0.005 of a mean, 0.0035 of a deviation, 0.005 of a correlation.
    assert values.mean(0).abs().max() < 0.025
    assert (values.std(0) - 1).abs().max() < 0.018
    assert (torch.corrcoef(values.t()) - torch.eye(3)).abs().max() < 0.025
    assert torch.equal(erase_noise(torch.tensor(12345), pixel[500:600]), values[500:600])
    assert not torch.equal(erase_noise(torch.tensor(12346), pixel), values)


@pytest.mark.parametrize("backend", BACKENDS)
def test_erase_noise_does_not_depend_on_the_place_in_the_batch(backend: str) -> None:
    usable(backend, torch.float32)
    given = with_erasing(case(samples=2), noise=True)
    assert given.erase is not None
    swap = torch.tensor([1, 0])
    erase = Erase(box=given.erase.box[swap], seed=given.erase.seed[swap], noise=True)
    every = torch.arange(24)
    swapped = replace(given, pixels=given.pixels[swap], erase=erase, indices=every)
    upstream = torch.zeros(24, given.weight.shape[0])
    first = embed(replace(given, indices=every), backend, torch.float32, upstream)["output"]
    second = embed(swapped, backend, torch.float32, upstream)["output"]
    torch.testing.assert_close(first, torch.cat((second[12:], second[:12])), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_still_image_is_a_clip_of_equal_frames(backend: str, dtype: torch.dtype) -> None:
    usable(backend, dtype)
    still = with_mixup(with_erasing(case(1), noise=False))
    clip = replace(still, pixels=still.pixels.expand(-1, 2, -1, -1, -1))
    upstream = torch.randn(still.indices.shape[0], still.weight.shape[0], dtype=dtype)
    of_still, of_clip = (embed(given, backend, dtype, upstream) for given in (still, clip))
    bound = 1e-12 if dtype == torch.float64 else 1e-5
    for key, value in of_still.items():
        torch.testing.assert_close(value, of_clip[key], rtol=bound, atol=bound, msg=key)


@pytest.mark.parametrize("backend", ["reference", "gather"])
def test_uint8_equals_the_same_levels_as_normalised_floats(backend: str) -> None:
    given = with_mixup(with_erasing(case(), noise=True))
    levels = (given.pixels.double() / 255 - MEAN.double()) / STD.double()
    upstream = torch.randn(given.indices.shape[0], given.weight.shape[0], dtype=torch.float64)
    of_bytes = embed(given, backend, torch.float64, upstream)
    of_floats = embed(replace(given, pixels=levels), backend, torch.float64, upstream)
    for key, value in of_bytes.items():
        torch.testing.assert_close(value, of_floats[key], rtol=1e-12, atol=1e-12, msg=key)


def test_gradcheck_of_the_definition() -> None:
    given = with_cutmix(case(2, patch=2, width=2))
    weight, bias = given.weight.clone().requires_grad_(), given.bias.clone().requires_grad_()
    frames = torch.randn(given.pixels.shape, dtype=torch.float64, requires_grad=True)

    def function(frames: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return embed_visible(frames, given.indices, weight, bias, MEAN, STD, mix=given.mix, backend="reference")

    assert torch.autograd.gradcheck(function, (frames, weight, bias))
    with pytest.raises(ValueError, match="'gather' cannot serve this call: gives no gradient to pixels"):
        embed_visible(frames, given.indices, weight, bias, MEAN, STD, backend="gather")


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_accumulate_and_repeat_to_the_bit(backend: str) -> None:
    usable(backend, torch.float32)
    given = with_mixup(with_erasing(case(), noise=True))
    upstream = torch.randn(given.indices.shape[0], given.weight.shape[0])
    first, again = (embed(given, backend, torch.float32, upstream) for _ in range(2))
    for key, value in first.items():
        assert torch.equal(value, again[key]), key
    weight, bias = (t.float().requires_grad_() for t in (given.weight, given.bias))
    for scale in (1.0, 2.0):
        output = embed_visible(
            given.pixels, given.indices, weight, bias, MEAN, STD, mix=given.mix, erase=given.erase, backend=backend
        )
        output.backward(upstream * scale)
    assert weight.grad is not None and bias.grad is not None
    torch.testing.assert_close(weight.grad, 3 * first["d_weight"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(bias.grad, 3 * first["d_bias"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_pixels_are_read_in_place_or_copied(backend: str) -> None:
    usable(backend, torch.float32)
    given = case()
    strided = replace(given, pixels=given.pixels.transpose(2, 3).contiguous().transpose(2, 3))
    assert not strided.pixels.is_contiguous()
    upstream = torch.zeros(given.indices.shape[0], given.weight.shape[0])
    ours, plain = (embed(which, backend, torch.float32, upstream)["output"] for which in (strided, given))
    assert torch.equal(ours, plain)


@pytest.mark.parametrize("backend", RIVALS)
def test_traces_without_breaks(backend: str) -> None:
    usable(backend, torch.float32)
    given = with_mixup(with_erasing(case(), noise=True))
    upstream = torch.randn(given.indices.shape[0], given.weight.shape[0])
    weight, bias = given.weight.float().requires_grad_(), given.bias.float().requires_grad_()

    @torch.compile(backend="aot_eager", fullgraph=True)
    def compiled(weight: Tensor, bias: Tensor) -> Tensor:
        return embed_visible(
            given.pixels, given.indices, weight, bias, MEAN, STD, mix=given.mix, erase=given.erase, backend=backend
        )

    output = compiled(weight, bias)
    output.backward(upstream)
    eager = embed(given, backend, torch.float32, upstream)
    torch.testing.assert_close(output, eager["output"])
    torch.testing.assert_close(weight.grad, eager["d_weight"])


def test_token_order_is_sample_slice_row_column() -> None:
    grid = token_grid(torch.zeros(2, 4, 6, 9, 3, dtype=torch.uint8), 3, 2)
    assert (grid.slices, grid.rows, grid.columns, grid.tokens_per_sample) == (2, 2, 3, 12)
    place = token_pixels(grid, torch.tensor([0, 2, 3, 6, 12 + 11]))
    assert place.sample.tolist() == [0, 0, 0, 0, 1]
    assert place.frame.tolist() == [[0, 1], [0, 1], [0, 1], [2, 3], [2, 3]]
    assert place.y[:, 0].tolist() == [0, 0, 3, 0, 3]
    assert place.x[:, 0].tolist() == [0, 6, 0, 0, 6]


def test_gather_reads_what_unfolding_shows() -> None:
    pixels = torch.arange(2 * 4 * 6 * 9 * 3, dtype=torch.float64).view(2, 4, 6, 9, 3)
    grid = token_grid(pixels, 3, 2)
    every = torch.arange(24)
    assert torch.equal(gather_tubelets(pixels, every, grid), unfold_tubelets(pixels, grid))


def test_box_bounds_are_half_open() -> None:
    box = torch.tensor([[1, 2, 3, 4]], dtype=torch.int32)
    within = inside(box, torch.arange(5)[None], torch.arange(5)[None])[0]
    assert within.nonzero().tolist() == [[1, 2], [1, 3], [2, 2], [2, 3]]


def test_bad_calls_are_refused() -> None:
    given = case()

    def call(**changes: Tensor | Mix | Erase) -> Tensor:
        arguments = {
            "pixels": given.pixels,
            "indices": given.indices,
            "weight": given.weight,
            "bias": given.bias,
            "mean": MEAN,
            "std": STD,
        } | changes
        return embed_visible(**arguments)

    with pytest.raises(ValueError, match=r"indices: expected int64 \(M,\), got torch.int32"):
        call(indices=given.indices.int())
    with pytest.raises(ValueError, match="expected height and width in multiples of 8"):
        call(pixels=given.pixels[:, :, :15])
    with pytest.raises(ValueError, match="expected 1 frame or a multiple of 2, got 3"):
        call(pixels=given.pixels[:, :3])
    with pytest.raises(ValueError, match=r"expected uint8 or floating point, got torch.int64"):
        call(pixels=given.pixels.long())
    with pytest.raises(ValueError, match=r"bias: expected torch.float64 \(24,\)"):
        call(bias=given.bias[1:])
    with pytest.raises(ValueError, match="expected one entry for each of 3 samples"):
        call(mix=Mix(partner=torch.tensor([1, 0]), lam=torch.ones(2)))
    with pytest.raises(ValueError, match=r"Mix.box: expected torch.int32 \(2, 4\)"):
        Mix(partner=torch.tensor([1, 0]), lam=torch.ones(2), box=torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"Mix.lam: expected floating point"):
        Mix(partner=torch.tensor([1, 0]), lam=torch.ones(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"Erase.box: expected torch.int32 \(2, 4\)"):
        Erase(box=torch.zeros(3, 4, dtype=torch.int32), seed=torch.zeros(2, dtype=torch.int64), noise=False)
