"""The library's functions as torch custom ops on CPU tensors: tracing sees shapes, not pointers."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.native import library


class _Patches(ctypes.Structure):
    """Mirror of S4dPatches in s4d_native.h."""

    _fields_ = [
        ("pixels", ctypes.c_void_p),
        ("samples", ctypes.c_int64),
        ("frames", ctypes.c_int64),
        ("height", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("patch_size", ctypes.c_int64),
        ("frames_per_token", ctypes.c_int64),
        ("mean", ctypes.c_void_p),
        ("std", ctypes.c_void_p),
        ("erase_box", ctypes.c_void_p),
        ("erase_seed", ctypes.c_void_p),
        ("partner", ctypes.c_void_p),
        ("share", ctypes.c_void_p),
        ("mix_box", ctypes.c_void_p),
    ]


def _fields(given: Sequence[Tensor], dtypes: tuple[torch.dtype, ...]) -> list[Tensor | None]:
    """One dense tensor of each dtype, None from where ``given`` ends."""
    dense = [tensor.to(dtype).contiguous() for tensor, dtype in zip(given, dtypes, strict=False)]
    return [*dense, *[None] * (len(dtypes) - len(dense))]


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


@torch.library.custom_op("s4d::routing_plan", mutates_args=(), device_types="cpu")
def routing_plan(ids: Tensor, num_experts: int, capacity: int | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Expert offsets (E + 1), order (T * k), slots (T, k) and kept (T, k) of the chosen experts ``ids`` (T, k)."""
    ids = ids.contiguous()
    tokens, top_k = ids.shape
    offsets = torch.empty(num_experts + 1, dtype=torch.int32)
    order = torch.empty(tokens * top_k, dtype=torch.int64)
    slots = torch.empty(tokens, top_k, dtype=torch.int64)
    kept = torch.empty(tokens, top_k, dtype=torch.bool)
    arrays = [ctypes.c_void_p(array.data_ptr()) for array in (ids, offsets, order, slots, kept)]
    sizes = [ctypes.c_int64(size) for size in (tokens, top_k, num_experts, -1 if capacity is None else capacity)]
    function = library().s4d_routing_plan
    function.restype = ctypes.c_int64
    position = function(arrays[0], *sizes, *arrays[1:])
    if position:
        raise ValueError(f"topk_expert_ids: expected 0 to {num_experts - 1}, got {int(ids.flatten()[position - 1])}")
    return offsets, order, slots, kept


@routing_plan.register_fake
def _(ids: Tensor, num_experts: int, capacity: int | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        ids.new_empty(num_experts + 1, dtype=torch.int32),
        ids.new_empty(ids.numel()),
        ids.new_empty(ids.shape),
        ids.new_empty(ids.shape, dtype=torch.bool),
    )


@torch.library.custom_op("s4d::visible_patches", mutates_args=(), device_types="cpu")
def visible_patches(
    pixels: Tensor,
    indices: Tensor,
    mean: Tensor,
    std: Tensor,
    erase: Sequence[Tensor],
    mix: Sequence[Tensor],
    *,
    patch_size: int,
    frames_per_token: int,
) -> Tensor:
    """Normalised, erased and mixed float32 values (M, f * p * p * 3) of the tokens ``indices`` of uint8 ``pixels``.

    ``erase`` is empty, a box of black or a box and the seed of its noise; ``mix`` is empty, partner and share, or these
    and a box: the fields of the records ``Erase`` and ``Mix``.
    """
    samples, frames, height, width, _ = pixels.shape
    # Named, so that converted copies live until the call returns.
    pixels, indices = pixels.contiguous(), indices.contiguous()
    mean, std = mean.float().contiguous(), std.float().contiguous()
    erase_box, erase_seed = _fields(erase, (torch.int32, torch.int64))
    partner, share, mix_box = _fields(mix, (torch.int64, torch.float32, torch.int32))
    record = _Patches(
        pixels.data_ptr(), samples, frames, height, width, patch_size, frames_per_token,
        mean.data_ptr(), std.data_ptr(), _address(erase_box), _address(erase_seed),
        _address(partner), _address(share), _address(mix_box),
    )  # fmt: skip
    rows = torch.empty(indices.shape[0], frames_per_token * patch_size * patch_size * 3)
    function = library().s4d_visible_patches
    function.restype = ctypes.c_int64
    position = function(
        ctypes.byref(record),
        ctypes.c_void_p(indices.data_ptr()),
        ctypes.c_int64(indices.shape[0]),
        ctypes.c_void_p(rows.data_ptr()),
        ctypes.c_int32(torch.get_num_threads()),
    )
    if position:
        raise ValueError(f"indices and mix partners: expected places within {tuple(pixels.shape)}, got one outside")
    return rows


@visible_patches.register_fake
def _(
    pixels: Tensor,
    indices: Tensor,
    mean: Tensor,
    std: Tensor,
    erase: Sequence[Tensor],
    mix: Sequence[Tensor],
    *,
    patch_size: int,
    frames_per_token: int,
) -> Tensor:
    values = frames_per_token * patch_size * patch_size * 3
    return pixels.new_empty(indices.shape[0], values, dtype=torch.float32)
