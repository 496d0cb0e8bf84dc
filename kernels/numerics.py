"""The one tolerance policy of every kernel: an error budget relative to plain PyTorch, and an RMS bound.

Three computations meet: the kernel, the same formula in plain PyTorch at the same dtype (``native``), and the formula
in float64 on the same rounded inputs (``reference``). The kernel passes if

* its largest error is at most twice native's plus half a unit of the dtype at the reference's largest value,
* RMS(error) / RMS(reference) is below the row of the dtype, times sqrt(K / 4096) for reductions longer than 4096,
* NaN and infinities stand where the reference has them;

integer results must be equal. The rows are for all kernels: no test overrides them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Half a unit of the dtype, and the bound on RMS(error) / RMS(reference).
UNIT: dict[torch.dtype, float] = {
    torch.float32: 6e-8,
    torch.float16: 5e-4,
    torch.bfloat16: 4e-3,
}
RMS_BOUND: dict[torch.dtype, float] = {
    torch.float32: 2e-6,
    torch.float16: 1e-3,
    torch.bfloat16: 5e-3,
}
_LONG_REDUCTION = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The figures of one comparison; ``passed`` is the verdict."""

    name: str
    dtype: torch.dtype
    kernel_error: float
    native_error: float
    error_bound: float
    rms_ratio: float
    rms_bound: float
    same_pattern: bool

    @property
    def passed(self) -> bool:
        """Whether all three conditions hold."""
        return self.same_pattern and self.kernel_error <= self.error_bound and self.rms_ratio <= self.rms_bound

    def __str__(self) -> str:
        return (
            f"{self.name} ({self.dtype}): {'passed' if self.passed else 'FAILED'}; "
            f"max error {self.kernel_error:.3e}, native {self.native_error:.3e}, bound {self.error_bound:.3e}; "
            f"rms ratio {self.rms_ratio:.3e}, bound {self.rms_bound:.3e}"
            f"{'' if self.same_pattern else '; NaN or infinity where the reference has none, or the reverse'}"
        )


def compare(
    kernel: Tensor,
    native: Tensor,
    reference: Tensor,
    dtype: torch.dtype,
    *,
    name: str = "result",
    reduction: int = 0,
    interpreted: bool = False,
) -> Comparison:
    """Measure ``kernel`` and ``native`` against the float64 ``reference`` under the row of the working ``dtype``.

    ``reduction`` is the length of the longest sum; ``interpreted`` marks a bfloat16 result of Triton's interpreter,
    which truncates instead of rounding and is allowed one more unit.
    """
    if dtype not in UNIT:
        raise ValueError(f"{name}: expected one of {', '.join(map(str, UNIT))}, got {dtype}")
    if not kernel.shape == native.shape == reference.shape:
        raise ValueError(
            f"{name}: expected one shape, got kernel {tuple(kernel.shape)}, native {tuple(native.shape)}, "
            f"reference {tuple(reference.shape)}"
        )
    wide = [tensor.detach().to("cpu", torch.float64) for tensor in (kernel, native, reference)]
    finite = wide[2].isfinite()
    errors = [(tensor - wide[2])[finite].nan_to_num(nan=math.inf) for tensor in wide[:2]]
    expected = wide[2][finite]
    units = 2 if interpreted and dtype == torch.bfloat16 else 1
    kernel_error, native_error, scale = (float(t.abs().max()) if t.numel() else 0.0 for t in (*errors, expected))
    error_rms, reference_rms = (float(t.square().mean().sqrt()) if t.numel() else 0.0 for t in (errors[0], expected))
    return Comparison(
        name=name,
        dtype=dtype,
        kernel_error=kernel_error,
        native_error=native_error,
        error_bound=2 * native_error + units * UNIT[dtype] * scale,
        rms_ratio=error_rms / reference_rms if reference_rms else (math.inf if error_rms else 0.0),
        rms_bound=units * RMS_BOUND[dtype] * math.sqrt(max(1.0, reduction / _LONG_REDUCTION)),
        same_pattern=bool(
            torch.equal(wide[0].isnan(), wide[2].isnan())
            and torch.equal(wide[0].isinf() * wide[0].sign(), wide[2].isinf() * wide[2].sign())
        ),
    )


def check(
    kernel: Tensor,
    native: Tensor,
    reference: Tensor,
    dtype: torch.dtype,
    *,
    name: str = "result",
    reduction: int = 0,
    interpreted: bool = False,
) -> Comparison:
    """Raise AssertionError with all figures unless ``kernel`` is within the policy; see ``compare``."""
    comparison = compare(kernel, native, reference, dtype, name=name, reduction=reduction, interpreted=interpreted)
    if not comparison.passed:
        raise AssertionError(str(comparison))
    return comparison


def check_equal(kernel: Tensor, reference: Tensor, *, name: str = "result") -> None:
    """Raise AssertionError unless two integer or boolean results are equal."""
    if kernel.is_floating_point() or reference.is_floating_point():
        raise ValueError(f"{name}: expected integers, got {kernel.dtype} and {reference.dtype}")
    kernel, reference = kernel.cpu(), reference.cpu()
    if not torch.equal(kernel, reference):
        differing = int((kernel != reference).sum()) if kernel.shape == reference.shape else "all"
        raise AssertionError(
            f"{name}: expected equal integers, {differing} of {reference.numel()} differ; "
            f"shapes {tuple(kernel.shape)} and {tuple(reference.shape)}"
        )
