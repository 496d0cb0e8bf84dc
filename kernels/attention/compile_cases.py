"""Calls that reach every tile of the attention kernels, with their arithmetic and least traffic.

Letters: T tokens, H heads, D head_dim.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from kernels.attention.tile_map import program_bound, tile_map_of_layout
from kernels.attention.tiles import forced, select
from kernels.attention.triton_backward import launch_contained
from kernels.attention.triton_forward import launch_forward
from kernels.attention.triton_sequences import launch_sequences
from kernels.attention.triton_tile_map import launch_tile_map
from kernels.attention.triton_two_pass import launch_two_pass
from kernels.launch import CompileCase, Work, architecture
from kernels.varlen import Layout

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_HEADS = {32: 6, 64: 12, 80: 16, 128: 8}
# Pre-training sees 10 tokens of an image and 40 of a clip, the decoder and fine-tuning 100 and 800.
_LAYOUTS: dict[str, Layout] = {
    "visible 10 and 40": ((192, 10), (192, 40)),
    "images of 100": ((192, 100),),
    "all of 100 and 800": ((192, 100), (192, 800)),
}
_TILE_ROWS = (16, 32, 64, 128)


def cases() -> Iterator[CompileCase]:
    """One case per type, head_dim and layout, then the tile map."""
    for dtype in _DTYPES:
        for dim, heads in _HEADS.items():
            for name, layout in _LAYOUTS.items():
                yield CompileCase(
                    name=f"{name}, {heads} x {dim}",
                    dtype=dtype,
                    run=partial(_attend, layout, heads, dim, dtype),
                    work=_work(layout, heads * dim, dtype.itemsize),
                )
    for rows in _TILE_ROWS:
        yield CompileCase(
            name=f"map of 192 x 10 and 192 x 40, {rows} rows",
            dtype=torch.int32,
            run=partial(_build_map, rows),
            work={"build_tile_map": Work(flops=0.0, bytes=4.0 * (385 + 9600 + 4 * program_bound(384, 9600, rows)))},
        )


def _attend(layout: Layout, heads: int, dim: int, dtype: torch.dtype) -> None:
    """Forward, and the backward in every form that the tile of this architecture has."""
    total = sum(count * length for count, length in layout)
    longest = max(length for _, length in layout)
    qkv = torch.empty(total, 3, heads, dim, dtype=dtype, device="meta")
    cu_seqlens = torch.empty(1 + sum(count for count, _ in layout), dtype=torch.int32, device="meta")
    for rows in _TILE_ROWS:
        with forced(rows=rows):
            tile = select(architecture(qkv.device), dtype, dim, longest)
        tile_map = tile_map_of_layout(layout, tile.rows, qkv.device)
        streaming = longest > tile.rows
        saved = launch_forward(qkv, cu_seqlens, tile_map, tile, streaming=streaming, scale=dim**-0.5)
        dout, dqkv = torch.empty_like(saved[0]), torch.empty_like(qkv)
        launch_contained(dout, qkv, dqkv, cu_seqlens, tile_map, tile, streaming=streaming, scale=dim**-0.5)
        if streaming:
            launch_two_pass(dout, qkv, cu_seqlens, saved, tile_map, tile, scale=dim**-0.5)
        if streaming and tile.sequences is not None:
            launch_sequences(dout, qkv, cu_seqlens, saved, tile_map, tile, scale=dim**-0.5)


def _build_map(rows: int) -> None:
    launch_tile_map(torch.empty(385, dtype=torch.int32, device="meta"), 9600, rows, program_bound(384, 9600, rows))


def _work(layout: Layout, width: int, size: int) -> dict[str, Work]:
    """Useful work of each kernel if it did all of ``layout``: products over pairs of tokens, tensors moved once."""
    tokens = sum(count * length for count, length in layout)
    pairs = sum(count * length * length for count, length in layout)

    def work(products: int, tensors: int) -> Work:
        return Work(flops=2.0 * products * pairs * width, bytes=float(tensors * tokens * width * size))

    return {
        "attention_forward": work(2, 4),
        "attention_backward": work(5, 7),
        "attention_backward_sequences": work(5, 8),
        "attention_backward_queries": work(3, 6),
        "attention_backward_keys": work(4, 6),
    }
