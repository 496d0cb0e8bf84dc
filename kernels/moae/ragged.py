"""Products of rows that belong to experts in runs: rows offsets[e] : offsets[e + 1] meet matrix e.

Custom ops, since torch traces its grouped matmul in bfloat16 only; their gradients are those of their callers.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

# torch's grouped matmul wants every row to start at a multiple of this many bytes.
_ALIGNMENT = 16


def grouped_mm_serves(device: str, dtype: torch.dtype) -> bool:
    """Whether torch's grouped matmul takes this dtype on this device without a copy of the offsets to the host."""
    dtypes = (torch.bfloat16,) if device == "cuda" else (torch.float32, torch.bfloat16, torch.float16)
    return dtype in dtypes


@torch.library.custom_op("s4d::ragged_matmul", mutates_args=())
def ragged_matmul(rows: Tensor, matrices: Tensor, offsets: Tensor) -> Tensor:
    """(R, N): each row of ``rows`` (R, K) times its expert's matrix of ``matrices`` (E, K, N).

    ``offsets`` (E + 1,) int32; rows from offsets[E] on are left undefined.
    """
    if not grouped_mm_serves(rows.device.type, rows.dtype):
        padded, place = _blocks(rows, offsets)
        return torch.bmm(padded, matrices).flatten(0, 1).index_select(0, place)
    depth, columns = matrices.shape[1:]
    if _gap(rows, depth) or _gap(rows, columns):
        matrices = pad(matrices, (0, _gap(rows, columns), 0, _gap(rows, depth)))
        rows = pad(rows, (0, _gap(rows, depth)))
    return torch._grouped_mm(rows, matrices, offs=offsets[1:])[:, :columns].contiguous()


@ragged_matmul.register_fake
def _(rows: Tensor, matrices: Tensor, offsets: Tensor) -> Tensor:
    return rows.new_empty(rows.shape[0], matrices.shape[2])


@torch.library.custom_op("s4d::ragged_outer", mutates_args=())
def ragged_outer(left: Tensor, right: Tensor, offsets: Tensor) -> Tensor:
    """(E, M, N): sum over each expert's rows of left[r] outer right[r]; rows from offsets[E] on count for nothing."""
    if not grouped_mm_serves(left.device.type, left.dtype):
        return torch.bmm(_blocks(left, offsets)[0].transpose(1, 2), _blocks(right, offsets)[0])
    rows, columns = left.shape[1], right.shape[1]
    left, right = (pad(side, (0, _gap(side, side.shape[1]))) for side in (left, right))
    return torch._grouped_mm(left.t(), right, offs=offsets[1:])[:, :rows, :columns].contiguous()


@ragged_outer.register_fake
def _(left: Tensor, right: Tensor, offsets: Tensor) -> Tensor:
    return left.new_empty(offsets.shape[0] - 1, left.shape[1], right.shape[1])


def _gap(like: Tensor, width: int) -> int:
    """Elements missing from ``width`` to the next aligned row length."""
    return -width % (_ALIGNMENT // like.element_size())


def _blocks(rows: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of each expert at the head of its own block, (E, longest, K), zero after; and the place of each row in it.

    The length of the blocks is read on the host, which only CPU tensors give for free.
    """
    num_experts = offsets.shape[0] - 1
    slot = torch.arange(rows.shape[0], dtype=offsets.dtype)
    longest = max(int(torch.diff(offsets).max()), 1)
    expert = torch.searchsorted(offsets[1:].contiguous(), slot, right=True)
    # Dropped rows go to one spare row after the blocks, cut off below.
    place = torch.where(expert < num_experts, expert * longest + slot - offsets[expert], num_experts * longest)
    padded = rows.new_zeros(num_experts * longest + 1, rows.shape[1]).index_copy_(0, place, rows)
    return padded[:-1].view(num_experts, longest, -1), place.clamp(max=num_experts * longest - 1)
