"""What a new set of lengths costs before the first attention call: our tile map against other libraries' masks.

The results are maps of different kinds, so nothing is compared; the tests of the tile map check it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.bench.records import AbsentError, Case, Peer, Run
from kernels.varlen import cu_seqlens_from_seqlens, sequence_ids

_SEED = 24
# Rows of a tile; the map of shorter tiles is longer.
_ROWS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class LengthInputs:
    """Borders on the device, lengths on the host, and their sum."""

    cu_seqlens: Tensor
    lengths: list[int]
    total: int


def make_inputs(device: torch.device, dtype: torch.dtype) -> LengthInputs:
    """A batch of 384 sequences of 10 or 40 tokens in random order."""
    generator = torch.Generator().manual_seed(_SEED)
    lengths = torch.tensor([10] * 192 + [40] * 192, dtype=torch.int32)[torch.randperm(384, generator=generator)]
    cu_seqlens = cu_seqlens_from_seqlens(lengths).to(device)
    return LengthInputs(cu_seqlens=cu_seqlens, lengths=lengths.tolist(), total=int(lengths.sum()))


CASES = {
    "new_lengths": Case(
        name="new_lengths",
        op="tile_map",
        inputs=make_inputs,
        floors=lambda dtype: {},
        defaults=frozenset({"cuda"}),
        dtypes={"cuda": (torch.bfloat16,), "cpu": (torch.float32,)},
    )
}


def tile_map_peers(case: Case) -> Iterator[Peer]:
    """Ours first."""
    yield Peer(name="device_map", build=_device_map, backend=True, rival=False)
    yield Peer(name="flex_block_mask", build=lambda inputs: _block_mask(inputs, compiled=True))
    yield Peer(name="flex_block_mask_eager", build=lambda inputs: _block_mask(inputs, compiled=False))
    yield Peer(name="xformers_mask", build=_xformers_mask, uncapturable="built on the host")


def automatic(inputs: LengthInputs) -> str | None:
    """Lengths that the host does not know are mapped on the device."""
    return "device_map"


def _run(make: Callable[[], tuple[Tensor, ...]]) -> Run:
    return Run(forward=make, leaves=(), upstream=(), results=lambda outputs, gradients: {})


def _device_map(inputs: LengthInputs) -> Run:
    if inputs.cu_seqlens.device.type != "cuda":
        raise AbsentError("a Triton kernel, which needs a GPU; lengths known to the host need no map there")
    from kernels.attention.tile_map import tile_map_on_device

    def forward() -> tuple[Tensor, ...]:
        return (tile_map_on_device(inputs.cu_seqlens, inputs.total, _ROWS).tiles,)

    return _run(forward)


def _block_mask(inputs: LengthInputs, *, compiled: bool) -> Run:
    from torch.nn.attention.flex_attention import create_block_mask

    if inputs.cu_seqlens.device.type != "cuda":
        raise AbsentError("FlexAttention has no backward on the CPU, so its mask serves no training there")
    owner = sequence_ids(inputs.cu_seqlens, inputs.total)

    def same(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return owner[query] == owner[key]

    def forward() -> tuple[Tensor, ...]:
        owner.copy_(sequence_ids(inputs.cu_seqlens, inputs.total))
        size = inputs.total
        mask = create_block_mask(same, None, None, size, size, device=str(owner.device), _compile=compiled)
        return (mask.kv_num_blocks,)

    return _run(forward)


def _xformers_mask(inputs: LengthInputs) -> Run:
    if inputs.cu_seqlens.device.type != "cuda":
        raise AbsentError("xformers' block-diagonal attention needs a GPU")
    try:
        from xformers.ops.fmha.attn_bias import BlockDiagonalMask
    except Exception as error:
        raise AbsentError(f"xformers: {type(error).__name__}: {error}") from error

    def forward() -> tuple[Tensor, ...]:
        return (BlockDiagonalMask.from_seqlens(inputs.lengths, device=inputs.cu_seqlens.device).q_seqinfo.seqstart,)

    return _run(forward)
