"""The library's functions as torch custom ops on CPU tensors: tracing sees shapes, not pointers."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.native import library
from kernels.varlen import detect_layout


class _Pixels(ctypes.Structure):
    """Mirror of S4dPixels in s4d_native.h."""

    _fields_ = [
        ("values", ctypes.c_void_p),
        ("samples", ctypes.c_int64),
        ("frames", ctypes.c_int64),
        ("height", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("patch_size", ctypes.c_int64),
        ("frames_per_token", ctypes.c_int64),
    ]


class _Patches(ctypes.Structure):
    """Mirror of S4dPatches in s4d_native.h."""

    _fields_ = [
        ("pixels", _Pixels),
        ("mean", ctypes.c_void_p),
        ("std", ctypes.c_void_p),
        ("erase_box", ctypes.c_void_p),
        ("erase_seed", ctypes.c_void_p),
        ("partner", ctypes.c_void_p),
        ("share", ctypes.c_void_p),
        ("mix_box", ctypes.c_void_p),
    ]


class _Sequences(ctypes.Structure):
    """Mirror of S4dSequences in s4d_native.h."""

    _fields_ = [
        ("qkv", ctypes.c_void_p),
        ("starts", ctypes.c_void_p),
        ("sequences", ctypes.c_int64),
        ("tokens", ctypes.c_int64),
        ("heads", ctypes.c_int64),
        ("head_dim", ctypes.c_int64),
        ("scale", ctypes.c_float),
    ]


# Mirror of S4dType.
_TYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}


def _call(name: str, *arguments: object) -> int:
    """Call a function of the library: tensors go as addresses, whole numbers as int64; returns its int64."""
    function = getattr(library(), name)
    function.restype = ctypes.c_int64
    return int(function(*(_plain(argument) for argument in arguments)))


def _plain(argument: object) -> object:
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, int):
        return ctypes.c_int64(argument)
    return argument


def _threads() -> ctypes.c_int32:
    return ctypes.c_int32(torch.get_num_threads())


def _pixels(pixels: Tensor, patch_size: int, frames_per_token: int) -> _Pixels:
    return _Pixels(pixels.data_ptr(), *pixels.shape[:4], patch_size, frames_per_token)


def _fields(given: Sequence[Tensor], dtypes: tuple[torch.dtype, ...]) -> list[Tensor | None]:
    """One dense tensor of each dtype, None from where ``given`` ends."""
    dense = [tensor.to(dtype).contiguous() for tensor, dtype in zip(given, dtypes, strict=False)]
    return [*dense, *[None] * (len(dtypes) - len(dense))]


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


@torch.library.custom_op("s4d::routing_plan", mutates_args=(), device_types="cpu")
def routing_plan(ids: Tensor, num_experts: int, capacity: int | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Expert offsets (E + 1), order (T * k), slots (T, k) and kept (T, k) of the chosen experts ``ids`` (T, k).

    On a CPU an id out of range raises ValueError. On CUDA it is not told of, since that would make the host wait: its
    assignment comes last in the order and is not kept.
    """
    ids = ids.contiguous()
    plan = _plan_arrays(ids, num_experts)
    limit = -1 if capacity is None else capacity
    position = _call("s4d_routing_plan", ids, *ids.shape, num_experts, limit, *plan)
    if position:
        raise ValueError(f"topk_expert_ids: expected 0 to {num_experts - 1}, got {int(ids.flatten()[position - 1])}")
    return plan


@routing_plan.register_kernel("cuda")
def _(ids: Tensor, num_experts: int, capacity: int | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    ids = ids.contiguous()
    plan = _plan_arrays(ids, num_experts)
    size = _call("s4d_routing_plan_cuda_workspace", ids.numel(), num_experts)
    workspace = ids.new_empty(size, dtype=torch.int32)
    limit = -1 if capacity is None else capacity
    with torch.cuda.device(ids.device):
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        error = _call("s4d_routing_plan_cuda", ids, *ids.shape, num_experts, limit, *plan, workspace, stream)
    if error:
        raise RuntimeError(f"routing plan of {tuple(ids.shape)} choices, {num_experts} experts: CUDA error {error}")
    return plan


@routing_plan.register_fake
def _(ids: Tensor, num_experts: int, capacity: int | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _plan_arrays(ids, num_experts)


def _plan_arrays(ids: Tensor, num_experts: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
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
    """Normalised, erased and mixed float32 values (M, 3 * f * p * p) of the tokens ``indices`` of uint8 ``pixels``.

    ``erase`` is empty, a box of black or a box and the seed of its noise; ``mix`` is empty, partner and share, or these
    and a box: the fields of the records ``Erase`` and ``Mix``.
    """
    # Named, so that converted copies live until the call returns.
    pixels, indices = pixels.contiguous(), indices.contiguous()
    mean, std = mean.float().contiguous(), std.float().contiguous()
    erase_box, erase_seed = _fields(erase, (torch.int32, torch.int64))
    partner, share, mix_box = _fields(mix, (torch.int64, torch.float32, torch.int32))
    record = _Patches(
        _pixels(pixels, patch_size, frames_per_token),
        mean.data_ptr(), std.data_ptr(), _address(erase_box), _address(erase_seed),
        _address(partner), _address(share), _address(mix_box),
    )  # fmt: skip
    rows = torch.empty(indices.shape[0], frames_per_token * patch_size * patch_size * 3)
    position = _call("s4d_visible_patches", ctypes.byref(record), indices, indices.shape[0], rows, _threads())
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


def subtract_targets_(
    prediction: Tensor, pixels: Tensor, indices: Tensor, *, patch_size: int, frames_per_token: int, repeats: int
) -> tuple[Tensor, Tensor]:
    """Turn ``prediction`` (M, values) of the tokens ``indices`` of dense uint8 ``pixels`` into residuals in place.

    Returns the sum of their squares, a scalar, and their sums over tokens (values,), both float64 and from before the
    residuals are rounded to the dtype of ``prediction``.
    """
    squares, columns = torch.empty((), dtype=torch.float64), torch.empty(prediction.shape[1], dtype=torch.float64)
    position = _call(
        "s4d_reconstruction_residual",
        ctypes.byref(_pixels(pixels, patch_size, frames_per_token)),
        indices,
        indices.shape[0],
        repeats,
        prediction,
        ctypes.c_int32(_TYPES[prediction.dtype]),
        squares,
        columns,
        _threads(),
    )
    if position:
        raise ValueError(f"indices: expected places within {tuple(pixels.shape)}, got {int(indices[position - 1])}")
    return squares, columns


def attend(qkv: Tensor, cu_seqlens: Tensor, scale: float) -> Tensor:
    """Softmax attention (T, H, D) of bfloat16 ``qkv`` (T, 3, H, D) within each sequence."""
    out = torch.empty(qkv.shape[0], *qkv.shape[2:], dtype=qkv.dtype)
    _attention("s4d_attention", qkv, cu_seqlens, scale, out)
    return out


def attend_backward(grad_out: Tensor, qkv: Tensor, cu_seqlens: Tensor, scale: float) -> Tensor:
    """Gradient (T, 3, H, D) of qkv from that of the output."""
    grad_qkv = torch.empty(qkv.shape, dtype=qkv.dtype)
    _attention("s4d_attention_backward", qkv, cu_seqlens, scale, grad_out.contiguous(), grad_qkv)
    return grad_qkv


def _attention(name: str, qkv: Tensor, cu_seqlens: Tensor, scale: float, *arrays: Tensor) -> None:
    qkv, starts = qkv.contiguous(), cu_seqlens.contiguous()
    record = _Sequences(qkv.data_ptr(), starts.data_ptr(), starts.shape[0] - 1, qkv.shape[0], *qkv.shape[2:], scale)
    if _call(name, ctypes.byref(record), *arrays, _threads()):
        detect_layout(starts, qkv.shape[0])  # raises, and says what is wrong
