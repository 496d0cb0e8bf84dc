"""The reconstruction loss of the native library: its blocks, its sums, and what it keeps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import kernels.native as native
import kernels.reconstruction.native as op
from kernels.native.ops import subtract_targets_
from kernels.reconstruction import masked_loss, patch_targets

pytestmark = pytest.mark.skipif(not native.status()[0], reason=native.status()[1])


def call(tokens: int = 50, dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], Tensor, Tensor]:
    """Hidden (M, 20), weight and bias of clips of 4 frames with patches of 8; pixels; indices."""
    shapes = ((tokens, 20), (384, 20), (384,))
    leaves = [torch.randn(*shape).to(dtype).requires_grad_() for shape in shapes]
    pixels = torch.randint(0, 256, (3, 4, 24, 24, 3), dtype=torch.uint8)
    return leaves, pixels, torch.randperm(54)[:tokens]


def gradients(leaves: list[Tensor], pixels: Tensor, indices: Tensor, backend: str = "native") -> list[Tensor]:
    """Loss and gradients."""
    total, _ = masked_loss(*leaves, pixels, indices, backend=backend)
    return [total.detach(), *torch.autograd.grad(total, [leaf for leaf in leaves if leaf.requires_grad])]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("block", [1, 7, 25, 50, 64])
def test_blocks_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch, block: int, dtype: torch.dtype) -> None:
    given = call(dtype=dtype)
    monkeypatch.setattr(op, "_BLOCK_TOKENS", block)
    tolerance = 1e-12 if dtype == torch.float64 else 2e-5
    for ours, expected in zip(gradients(*given), gradients(*given, backend="reference"), strict=True):
        torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("frames", "repeats"), [(1, 2), (4, 1)])
@pytest.mark.parametrize("patch", [2, 5, 16])
def test_residuals_and_their_sums(patch: int, frames: int, repeats: int, dtype: torch.dtype) -> None:
    pixels = torch.randint(0, 256, (2, frames, 2 * patch, 3 * patch, 3), dtype=torch.uint8)
    indices = torch.arange(2 * max(1, frames // 2) * 6).flip(0)
    target = patch_targets(pixels.double() / 255, indices, patch, 2)
    prediction = torch.randn(target.shape).to(dtype)
    expected = prediction.double() - target
    residual = prediction.clone()
    squares, columns = subtract_targets_(
        residual, pixels, indices, patch_size=patch, frames_per_token=min(frames, 2), repeats=repeats
    )
    unit = {torch.float64: 1e-13, torch.float32: 3e-7, torch.bfloat16: 4e-3}[dtype]
    torch.testing.assert_close(residual.double(), expected, rtol=unit, atol=unit)
    sums = 1e-12 if dtype == torch.float64 else 2e-6
    torch.testing.assert_close(squares, expected.square().sum(), rtol=sums, atol=sums)
    torch.testing.assert_close(columns, expected.sum(0), rtol=sums, atol=40 * sums)


def test_flat_patch_gives_a_target_of_zero() -> None:
    pixels = torch.full((1, 2, 8, 8, 3), 200, dtype=torch.uint8)
    prediction = torch.zeros(1, 384)
    squares, _ = subtract_targets_(prediction, pixels, torch.tensor([0]), patch_size=8, frames_per_token=2, repeats=1)
    assert squares == 0 and not prediction.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_threads_change_nothing(dtype: torch.dtype) -> None:
    _, pixels, _ = call()
    indices = torch.arange(54).repeat(3)
    prediction = torch.randn(162, 384).to(dtype)
    found = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            residual = prediction.clone()
            sums = subtract_targets_(residual, pixels, indices, patch_size=8, frames_per_token=2, repeats=1)
            found.append((residual, *sums))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def allocated(run: Callable[[], object]) -> list[int]:
    """Bytes that torch's allocator hands out during ``run``, most at a time."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as record:
        run()
    results = record.profiler.kineto_results
    events = sorted((e for e in results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns())
    return [event.nbytes() for event in events]


@pytest.mark.parametrize(("dtype", "share"), [(torch.float32, 0.25), (torch.bfloat16, 0.25)], ids=str)
def test_peak_memory_is_a_fraction_of_the_eager_formula(dtype: torch.dtype, share: float) -> None:
    tokens, dim = 4000, 128
    pixels = torch.randint(0, 256, (20, 4, 160, 160, 3), dtype=torch.uint8)
    indices = torch.arange(tokens) % (20 * 2 * 100)
    leaves = [torch.randn(*shape).to(dtype).requires_grad_() for shape in ((tokens, dim), (1536, dim), (1536,))]

    def peak(run: Callable[[], Tensor]) -> int:
        live = most = 0
        for size in allocated(lambda: run().backward()):
            live += size
            most = max(most, live)
        for leaf in leaves:
            leaf.grad = None
        return most

    def eager() -> Tensor:
        prediction = torch.nn.functional.linear(*leaves)
        return (prediction - patch_targets(pixels, indices, 16, 2)).square().mean()

    ours = peak(lambda: masked_loss(*leaves, pixels, indices, backend="native")[0] / tokens)
    assert ours <= share * peak(eager)


def kept_bytes(leaves: list[Tensor], pixels: Tensor, indices: Tensor) -> int:
    known = {leaf.untyped_storage().data_ptr() for leaf in leaves}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        masked_loss(*leaves, pixels, indices, backend="native")
    return sum(kept.values())


def test_only_wanted_gradients_are_taken_and_kept() -> None:
    leaves, pixels, indices = call()
    sizes = [leaf.numel() * 4 for leaf in leaves]
    assert kept_bytes(leaves, pixels, indices) == sum(sizes)
    everything = gradients(leaves, pixels, indices)
    for place, leaf in enumerate(leaves):
        for other in leaves:
            other.requires_grad_(other is leaf)
        assert kept_bytes(leaves, pixels, indices) == sizes[place]
        assert torch.equal(gradients(leaves, pixels, indices)[1], everything[1 + place])
        leaf.requires_grad_()
        with torch.no_grad():
            assert kept_bytes(leaves, pixels, indices) == 0
            total, _ = masked_loss(*leaves, pixels, indices, backend="native")
        assert not total.requires_grad and total == everything[0]


def test_custom_op_is_registered_soundly() -> None:
    leaves, pixels, indices = call(9)
    arguments = (*(leaf.detach() for leaf in leaves), pixels, indices, [8, 2, 1])
    for wanted in ([True] * 3, [False] * 3, [False, True, False]):
        torch.library.opcheck(torch.ops.s4d.native_masked_loss.default, (*arguments, wanted))


def test_indices_outside_are_refused() -> None:
    leaves, pixels, indices = call()
    for wrong in (-1, 54):
        indices[7] = wrong
        with pytest.raises(ValueError, match=f"indices: expected places within .*, got {wrong}"):
            masked_loss(*leaves, pixels, indices, backend="native")


def test_float_pixels_are_refused() -> None:
    leaves, pixels, indices = call()
    with pytest.raises(ValueError, match="'native' cannot serve this call: reads uint8 pixels"):
        masked_loss(*leaves, pixels.float(), indices, backend="native")
