"""Pieces of the expert kernels: finding a tile, GELU, and products of rows in memory or on chip with weights.

Tiles are oriented by ROW_AXIS, as triton_experts says.
"""

# Triton reads annotations of kernel parameters itself; a tuple of accumulators grows, which has no static type.
# mypy: allow-untyped-defs, disable-error-code=assignment
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def find_tile(expert_offsets, EXPERTS: tl.constexpr, EXPERTS_POW2: tl.constexpr, BLOCK_ROWS: tl.constexpr):
    """Expert of this program, its first slot and the end of its expert's slots; no slot for a surplus program."""
    program = tl.program_id(0)
    expert = tl.arange(0, EXPERTS_POW2)
    exists = expert < EXPERTS
    begin = tl.load(expert_offsets + expert, mask=exists, other=0)
    end = tl.load(expert_offsets + expert + 1, mask=exists, other=0)
    tiles = (end - begin + BLOCK_ROWS - 1) // BLOCK_ROWS
    last = tl.cumsum(tiles, 0)
    mine = (program >= last - tiles) & (program < last)
    first_slot = tl.sum(tl.where(mine, begin + (program - last + tiles) * BLOCK_ROWS, 0), 0)
    return tl.sum(tl.where(mine, expert, 0), 0), first_slot, tl.sum(tl.where(mine, end, 0), 0)


@triton.jit
def gelu(value, EXACT: tl.constexpr):
    """Exact GELU.

    Without EXACT the normal tail is two to a fitted polynomial of |value|, 8e-7 off at most, far below a unit of half
    precision; its leading coefficient is negative, so that it ends at zero.
    """
    if EXACT:
        below = 0.5 + 0.5 * tl.erf(value * 0.7071067811865476)
    else:
        size = tl.abs(value)
        series = -0.0005028853 * size + 0.0073007545
        series = series * size - 0.0523881912
        series = series * size - 0.4593681097
        series = series * size - 1.1510702372
        tail = tl.exp2(series * size - 1.0)
        below = tl.where(value < 0, tail, 1.0 - tail)
    return value * below


@triton.jit
def gelu_and_slope(value, EXACT: tl.constexpr):
    """Exact GELU and its derivative.

    Without EXACT the normal tail is a polynomial in 1 / (1 + p |value|), good to 1.5e-7 (Abramowitz and Stegun 7.1.26),
    times the exponential of the derivative: with two exponentials more is in flight than the registers hold.
    """
    bell = tl.exp2(value * value * -0.7213475204444817)
    if EXACT:
        below = 0.5 + 0.5 * tl.erf(value * 0.7071067811865476)
    else:
        near = 1.0 / (1.0 + 0.23164189 * tl.abs(value))
        series = 0.5307027 * near - 0.7265760
        series = series * near + 0.7107069
        series = series * near - 0.1422484
        tail = (series * near + 0.1274148) * near * bell
        below = tl.where(value < 0, tail, 1.0 - tail)
    return value * below, below + value * bell * 0.3989422804014327


@triton.jit
def multiply(rows, weights, total, ROW_AXIS: tl.constexpr, PRECISION: tl.constexpr):
    """``total`` plus the product, with the slots on ROW_AXIS of rows and result."""
    if ROW_AXIS == 0:
        total = tl.dot(rows, weights, total, input_precision=PRECISION)
    else:
        total = tl.dot(weights, rows, total, input_precision=PRECISION)
    return total


@triton.jit
def zeros(BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, ROW_AXIS: tl.constexpr):
    """Accumulator of one product."""
    if ROW_AXIS == 0:
        total = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
    else:
        total = tl.zeros((BLOCK_COLUMNS, BLOCK_ROWS), tl.float32)
    return total


@triton.jit
def load_weights(
    weights,
    first_depth,
    first_column,
    DEPTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH_STRIDE: tl.constexpr,
    COLUMN_STRIDE: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    ROW_AXIS: tl.constexpr,
):
    """Tile of a matrix as the second operand of ``multiply``, zero outside the matrix."""
    depth = first_depth + tl.expand_dims(tl.arange(0, BLOCK_DEPTH), 1 - ROW_AXIS)
    column = first_column + tl.expand_dims(tl.arange(0, BLOCK_COLUMNS), ROW_AXIS)
    address = weights + depth * DEPTH_STRIDE + column * COLUMN_STRIDE
    if DEPTH % BLOCK_DEPTH == 0 and COLUMNS % BLOCK_COLUMNS == 0:
        tile = tl.load(address)
    else:
        tile = tl.load(address, mask=(depth < DEPTH) & (column < COLUMNS), other=0.0)
    return tile


@triton.jit
def products(
    row_starts,
    weights,
    first_column,
    depth_end,
    DEPTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH_STRIDE: tl.constexpr,
    COLUMN_STRIDE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    CHUNKS: tl.constexpr,
    ROW_AXIS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Rows in memory times CHUNKS neighbouring column blocks of a matrix: a tuple of accumulators.

    ``depth_end`` is DEPTH at run time: a loop of known length would be unrolled whole, to more code and registers.
    """
    totals = ()
    for _ in tl.static_range(CHUNKS):
        totals += (zeros(BLOCK_ROWS, BLOCK_COLUMNS, ROW_AXIS),)
    depth = tl.expand_dims(tl.arange(0, BLOCK_DEPTH), ROW_AXIS)
    # Without it the accumulators get copies for a loop of no steps.
    tl.assume(depth_end > 0)
    for start in tl.range(0, depth_end, BLOCK_DEPTH):
        if DEPTH % BLOCK_DEPTH == 0:
            rows = tl.load(row_starts + start + depth)
        else:
            rows = tl.load(row_starts + start + depth, mask=start + depth < DEPTH, other=0.0)
        sums = ()
        for chunk in tl.static_range(CHUNKS):
            tile = load_weights(
                weights,
                start,
                first_column + chunk * BLOCK_COLUMNS,
                DEPTH,
                COLUMNS,
                DEPTH_STRIDE,
                COLUMN_STRIDE,
                BLOCK_DEPTH,
                BLOCK_COLUMNS,
                ROW_AXIS,
            )
            sums += (multiply(rows, tile, totals[chunk], ROW_AXIS, PRECISION),)
        totals = sums
    return totals


@triton.jit
def chunk_product(
    chunks,
    weights,
    first_column,
    DEPTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH_STRIDE: tl.constexpr,
    COLUMN_STRIDE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    CHUNKS: tl.constexpr,
    ROW_AXIS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Rows on chip, a tuple of CHUNKS blocks of their depth, times one column block of a matrix."""
    total = zeros(BLOCK_ROWS, BLOCK_COLUMNS, ROW_AXIS)
    for chunk in tl.static_range(CHUNKS):
        tile = load_weights(
            weights,
            chunk * BLOCK_DEPTH,
            first_column,
            DEPTH,
            COLUMNS,
            DEPTH_STRIDE,
            COLUMN_STRIDE,
            BLOCK_DEPTH,
            BLOCK_COLUMNS,
            ROW_AXIS,
        )
        total = multiply(chunks[chunk], tile, total, ROW_AXIS, PRECISION)
    return total
