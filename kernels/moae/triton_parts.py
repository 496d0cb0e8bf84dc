"""Float32-exact products on tensor cores: a float32 operand goes in as the sum of half-precision parts.

A part holds 8 bits (bfloat16) or 11 (float16): three parts hold a float32, two hold 16 bits or more. Float16 parts
would fall below its smallest number: a power of two, taken from the largest value, moves them up first. What enters
the products is of type ``operand``. Every call starts a new accumulator, which the caller adds in float32: tensor cores
truncate long sums.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def power_of_two(values, operand: tl.constexpr):
    """Scale that brings the largest of ``values`` near 2^14, and its inverse; 1 and 1 unless ``operand`` is float16."""
    if operand == tl.float16:
        exponent = (tl.max(tl.max(tl.abs(values), 1), 0).to(tl.int32, bitcast=True) >> 23) & 0xFF
        scaled = tl.minimum(tl.maximum(268 - exponent, 1), 253)
        return (scaled << 23).to(tl.float32, bitcast=True), ((254 - scaled) << 23).to(tl.float32, bitcast=True)
    else:
        return 1.0, 1.0


@triton.jit
def times_wide(exact, wide, operand: tl.constexpr):
    """``exact @ wide`` for an ``exact`` of type ``operand`` (any, if that is float32) and a float32 ``wide``."""
    total = tl.zeros((exact.shape[0], wide.shape[1]), dtype=tl.float32)
    if operand == tl.float32:
        total = tl.dot(exact.to(tl.float32), wide, total, input_precision="ieee")
    else:
        scale, inverse = power_of_two(wide, operand)
        rest = wide * scale
        high = rest.to(operand)
        rest -= high.to(tl.float32)
        middle = rest.to(operand)
        low = (rest - middle.to(tl.float32)).to(operand)
        total = tl.dot(exact, low, total)
        total = tl.dot(exact, middle, total)
        total = tl.dot(exact, high, total) * inverse
    return total


@triton.jit
def wide_times_wide(left, right, operand: tl.constexpr):
    """``left @ right`` (float32) of two float32 operands, to 16 bits or more where ``operand`` is not float32."""
    total = tl.zeros((left.shape[0], right.shape[1]), dtype=tl.float32)
    if operand == tl.float32:
        total = tl.dot(left, right, total, input_precision="ieee")
    else:
        left_scale, left_inverse = power_of_two(left, operand)
        right_scale, right_inverse = power_of_two(right, operand)
        left *= left_scale
        right *= right_scale
        left_high, right_high = left.to(operand), right.to(operand)
        left_low, right_low = (
            (left - left_high.to(tl.float32)).to(operand),
            (right - right_high.to(tl.float32)).to(operand),
        )
        total = tl.dot(left_low, right_high, total)
        total = tl.dot(left_high, right_low, total)
        # One after the other: the product of the two inverses may fall below the smallest number.
        total = tl.dot(left_high, right_high, total) * left_inverse * right_inverse
    return total
