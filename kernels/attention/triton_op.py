"""The Triton backend of varlen attention as custom ops: forward, backward, and the tile map of unknown lengths.

Kept for the backward: qkv, cu_seqlens and the map; with sequences longer than a tile also the output, which the layer
above keeps anyway, and the log-sum-exp.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kernels.attention.tile_map import TileMap, layout_of_numbers, program_bound, tile_map_of_layout, tile_map_on_device
from kernels.attention.tiles import Tile, prefers_two_pass, select
from kernels.attention.triton_backward import launch_contained
from kernels.attention.triton_forward import launch_forward
from kernels.attention.triton_sequences import launch_sequences
from kernels.attention.triton_two_pass import launch_two_pass
from kernels.launch import architecture
from kernels.varlen import Layout, detect_layout

# A layout of more runs is new with every batch: its tiles are built on the device instead.
_MAX_RUNS = 64


def triton_attention(
    qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, *, layout: Layout | None, scale: float
) -> Tensor:
    """Attention over tiles of whole sequences; ``max_seqlen`` must hold, a longer sequence may come out as NaN.

    Where ``layout`` is unknown and ``cu_seqlens`` on a device, nothing checks that it runs from 0 to T.
    """
    numbers, tiles, sequence_of_token = None, None, None
    longest = min(max_seqlen, qkv.shape[0])
    if layout is not None:
        longest = max([0, *(length for count, length in layout if count)])
    if layout is not None and len(layout) <= _MAX_RUNS:
        numbers = [number for run in layout for number in run]
    else:
        tiles, sequence_of_token = _map(qkv.detach(), cu_seqlens, longest)
    out: Tensor = _forward(qkv, cu_seqlens, tiles, sequence_of_token, numbers, longest, scale)[0]
    return out


def _tile(qkv: Tensor, longest: int) -> Tile:
    # The head_dim of a traced call may be symbolic; the table needs the number.
    return select(architecture(qkv.device), qkv.dtype, int(qkv.shape[3]), longest)


def _streams(qkv: Tensor, longest: int) -> bool:
    return longest > _tile(qkv, longest).rows


@torch.library.custom_op("s4d::attention_tile_map", mutates_args=())
def _map(qkv: Tensor, cu_seqlens: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    total_tokens = qkv.shape[0]
    if cu_seqlens.device.type == "cpu":
        detect_layout(cu_seqlens, total_tokens)
    tile_map = tile_map_on_device(cu_seqlens, total_tokens, _tile(qkv, longest).rows)
    return tile_map.tiles, tile_map.sequence_of_token


@_map.register_fake
def _(qkv: Tensor, cu_seqlens: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    programs = program_bound(cu_seqlens.shape[0] - 1, qkv.shape[0], _tile(qkv, longest).rows)
    return cu_seqlens.new_empty((programs, 4)), cu_seqlens.new_empty(qkv.shape[0])


def _tile_map(
    rows: int, device: torch.device, tiles: Tensor | None, sequence: Tensor | None, numbers: Sequence[int] | None
) -> TileMap:
    if tiles is not None and sequence is not None:
        return TileMap(tiles=tiles, sequence_of_token=sequence)
    assert numbers is not None
    return tile_map_of_layout(layout_of_numbers(numbers), rows, device)


def _readable(tensor: Tensor) -> Tensor:
    """``tensor`` with its last dimension contiguous; the other strides are free."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


@torch.library.custom_op("s4d::triton_attention", mutates_args=())
def _forward(
    qkv: Tensor,
    cu_seqlens: Tensor,
    tiles: Tensor | None,
    sequence_of_token: Tensor | None,
    numbers: Sequence[int] | None,
    longest: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    tile = _tile(qkv, longest)
    return launch_forward(
        _readable(qkv),
        cu_seqlens,
        _tile_map(tile.rows, qkv.device, tiles, sequence_of_token, numbers),
        tile,
        streaming=longest > tile.rows,
        scale=scale,
    )


@_forward.register_fake
def _(
    qkv: Tensor,
    cu_seqlens: Tensor,
    tiles: Tensor | None,
    sequence_of_token: Tensor | None,
    numbers: Sequence[int] | None,
    longest: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    total_tokens, _, heads, dim = qkv.shape
    lse_shape = (heads, total_tokens) if _streams(qkv, longest) else (0,)
    return qkv.new_empty((total_tokens, heads, dim)), qkv.new_empty(lse_shape, dtype=torch.float32)


@torch.library.custom_op("s4d::triton_attention_backward", mutates_args=())
def _backward(
    dout: Tensor,
    qkv: Tensor,
    cu_seqlens: Tensor,
    out: Tensor | None,
    lse: Tensor,
    tiles: Tensor | None,
    sequence_of_token: Tensor | None,
    numbers: Sequence[int] | None,
    longest: int,
    scale: float,
) -> Tensor:
    tile = _tile(qkv, longest)
    tile_map = _tile_map(tile.rows, qkv.device, tiles, sequence_of_token, numbers)
    dout, qkv = _readable(dout), _readable(qkv)
    if out is None:
        dqkv = torch.empty_like(qkv)
        launch_contained(dout, qkv, dqkv, cu_seqlens, tile_map, tile, streaming=False, scale=scale)
        return dqkv
    long_sequences = min(cu_seqlens.shape[0] - 1, qkv.shape[0] // (tile.rows + 1))
    if numbers is not None:
        long_sequences = sum(count for count, length in layout_of_numbers(numbers) if length > tile.rows)
    two_pass = tile.sequences is None or prefers_two_pass(qkv.device, long_sequences * qkv.shape[2])
    run = launch_two_pass if two_pass else launch_sequences
    return run(dout, qkv, cu_seqlens, (out, lse), tile_map, tile, scale=scale)


@_backward.register_fake
def _(
    dout: Tensor,
    qkv: Tensor,
    cu_seqlens: Tensor,
    out: Tensor | None,
    lse: Tensor,
    tiles: Tensor | None,
    sequence_of_token: Tensor | None,
    numbers: Sequence[int] | None,
    longest: int,
    scale: float,
) -> Tensor:
    return torch.empty_like(_readable(qkv))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    qkv, cu_seqlens, tiles, sequence_of_token, ctx.numbers, ctx.longest, ctx.scale = inputs
    out, lse = output
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(qkv, cu_seqlens, out if _streams(qkv, ctx.longest) else None, lse, tiles, sequence_of_token)


def _autograd(ctx: Any, dout: Tensor | None, dlse: Tensor | None) -> tuple[Tensor | None, ...]:
    grad = None if dout is None else _backward(dout, *ctx.saved_tensors, ctx.numbers, ctx.longest, ctx.scale)
    return grad, None, None, None, None, None, None


_forward.register_autograd(_autograd, setup_context=_setup_context)
