from __future__ import annotations

import math

import pytest
import torch

from kernels.numerics import RMS_BOUND, UNIT, check, check_equal, compare

DTYPES = list(UNIT)


def product(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix product in ``dtype`` and in float64 on the same rounded inputs."""
    left, right = torch.randn(32, 48, dtype=torch.float64).to(dtype), torch.randn(48, 16, dtype=torch.float64).to(dtype)
    return left @ right, left.double() @ right.double()


@pytest.mark.parametrize("dtype", DTYPES)
def test_native_passes(dtype: torch.dtype) -> None:
    native, reference = product(dtype)
    assert check(native, native, reference, dtype).passed


@pytest.mark.parametrize("dtype", DTYPES)
def test_planted_single_error_is_rejected(dtype: torch.dtype) -> None:
    native, reference = product(dtype)
    planted = reference.clone()
    planted[3, 5] += 1.1 * compare(native, native, reference, dtype).error_bound
    with pytest.raises(AssertionError, match=r"max error .* native .* bound"):
        check(planted, native, reference, dtype, name="planted")


@pytest.mark.parametrize("dtype", DTYPES)
def test_planted_bias_is_rejected_by_rms_alone(dtype: torch.dtype) -> None:
    _, reference = product(dtype)
    kernel = reference * (1 + 2 * RMS_BOUND[dtype])
    comparison = compare(kernel, kernel, reference, dtype)
    assert comparison.kernel_error <= comparison.error_bound
    assert not comparison.passed


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_pattern_must_agree_both_ways(value: float) -> None:
    clean = torch.ones(4)
    dirty = clean.clone()
    dirty[2] = value
    assert not compare(dirty, clean, clean.double(), torch.float32).passed
    assert not compare(clean, clean, dirty.double(), torch.float32).passed
    assert compare(dirty, dirty, dirty.double(), torch.float32).passed


def test_sign_of_infinity_matters() -> None:
    plus = torch.tensor([1.0, math.inf])
    assert not compare(plus * torch.tensor([1.0, -1.0]), plus, plus.double(), torch.float32).passed


def test_long_reductions_and_the_interpreter_widen_the_bounds() -> None:
    zeros = torch.ones(2, dtype=torch.float64)
    plain = compare(zeros, zeros, zeros, torch.bfloat16)
    long = compare(zeros, zeros, zeros, torch.bfloat16, reduction=4 * 4096)
    interpreted = compare(zeros, zeros, zeros, torch.bfloat16, interpreted=True)
    assert (plain.rms_bound, long.rms_bound) == (RMS_BOUND[torch.bfloat16], 2 * RMS_BOUND[torch.bfloat16])
    assert interpreted.error_bound == 2 * plain.error_bound


def test_zero_reference_allows_no_error() -> None:
    zeros = torch.zeros(3)
    assert compare(zeros, zeros, zeros.double(), torch.float32).passed
    assert not compare(zeros + 1e-12, zeros, zeros.double(), torch.float32).passed


def test_integers_are_compared_exactly() -> None:
    check_equal(torch.arange(4), torch.arange(4))
    with pytest.raises(AssertionError, match="1 of 4 differ"):
        check_equal(torch.tensor([0, 1, 2, 4]), torch.arange(4), name="ids")
    with pytest.raises(ValueError, match="expected integers"):
        check_equal(torch.ones(2), torch.ones(2))


def test_unknown_dtypes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got torch\.float64"):
        compare(torch.ones(2), torch.ones(2), torch.ones(2), torch.float64)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="expected one shape"):
        compare(torch.ones(2), torch.ones(3), torch.ones(2), torch.float32)
