"""What a replay found, tensor by tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Largest relative error of outputs and gradients.
TOLERANCES = {torch.float64: 1e-5, torch.float32: 1e-4}


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorCheck:
    """One stored tensor against ours: largest absolute error and ||ours - stored|| / ||stored||.

    Where the stored tensor is zero throughout, `relative_error` is the norm of ours.
    """

    name: str
    absolute_error: float
    relative_error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance (0 for integers); never for NaN."""
        return self.relative_error <= self.tolerance


def compare(name: str, ours: Tensor, stored: Tensor, dtype: torch.dtype) -> TensorCheck:
    """Check one tensor of a replay in `dtype`; a different shape counts as an infinite error."""
    tolerance = TOLERANCES[dtype] if stored.is_floating_point() else 0.0
    if ours.shape != stored.shape:
        infinite = float("inf")
        return TensorCheck(name=name, absolute_error=infinite, relative_error=infinite, tolerance=tolerance)
    difference = (ours.detach().double() - stored.double()).flatten()
    norm = stored.double().norm()
    error = difference.norm()
    return TensorCheck(
        name=name,
        absolute_error=float(difference.abs().max()) if difference.numel() else 0.0,
        relative_error=float(error / norm if norm > 0 else error),
        tolerance=tolerance,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldenReport:
    """One file replayed in one precision with one choice of backends.

    `refusal` is the reason why a backend does not serve this model (then there are no checks); `unaccounted` are
    tensors of the file that the replay does not know.
    """

    path: str
    dtype: str
    backends: dict[str, str]
    checks: tuple[TensorCheck, ...] = ()
    unaccounted: tuple[str, ...] = ()
    refusal: str | None = None

    @property
    def passed(self) -> bool:
        """Whether every tensor is accounted for and within tolerance; a refusal is no failure."""
        if self.refusal is not None:
            return True
        return bool(self.checks) and not self.unaccounted and all(check.passed for check in self.checks)

    @property
    def worst(self) -> TensorCheck | None:
        """The check that used up most of its tolerance."""
        return max(self.checks, key=lambda check: check.relative_error / max(check.tolerance, 1e-300), default=None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "path": self.path,
            "dtype": self.dtype,
            "backends": self.backends,
            "passed": self.passed,
            "refusal": self.refusal,
            "unaccounted": list(self.unaccounted),
            "tensors": [
                {
                    "name": check.name,
                    "absolute_error": check.absolute_error,
                    "relative_error": check.relative_error,
                    "tolerance": check.tolerance,
                    "passed": check.passed,
                }
                for check in self.checks
            ],
        }
