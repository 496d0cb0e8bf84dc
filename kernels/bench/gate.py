"""Right before fast: every peer's results are held against the definition before it is timed.

Our backends must keep the policy of ``kernels.numerics``. A library is itself plain PyTorch, so another formula's
largest error is no measure for it, and one that rounds more often than we may is still a rival: it may use
``LIBRARY_FACTOR`` times the RMS row, and the result says so; beyond that it computes something else. Where plain
PyTorch itself misses the RMS row (router biases in bfloat16: eight sums of thousands of terms that cancel), its own
figure takes the place of the row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels import numerics

LIBRARY_FACTOR = 4.0
# Larger results are compared on rows spread over them: float64 copies on the host would cost more than the benchmark.
MOST_VALUES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """``passed`` within the policy; ``usable`` if it may be timed; ``worst`` is the comparison nearest its bound."""

    passed: bool
    usable: bool
    share: float
    worst: str
    text: str


class Expected:
    """Results of the definition and of plain PyTorch, thinned out once for all peers of a case."""

    def __init__(self, reference: Mapping[str, Tensor], native: Mapping[str, Tensor], reductions: Mapping[str, int]):
        self.reference = {name: _spread(value) for name, value in reference.items()}
        self.native = {name: _spread(value) for name, value in native.items()}
        self.reductions = reductions
        self._rms: dict[str, float] = {}

    def judge(self, results: Mapping[str, Tensor], dtype: torch.dtype, *, backend: bool) -> Verdict:
        """Hold the ``results`` of one peer against the expected ones."""
        if set(results) != set(self.reference):
            text = f"expected the results {sorted(self.reference)}, got {sorted(results)}"
            return Verdict(passed=False, usable=False, share=float("inf"), worst="", text=text)
        worst, share, spread = None, -1.0, 0.0
        for name, value in results.items():
            if value.shape[1:] != self.reference[name].shape[1:] or not bool(value.isfinite().all()):
                text = f"{name}: shape {tuple(value.shape)}, or values that are not finite"
                return Verdict(passed=False, usable=False, share=float("inf"), worst=name, text=text)
            comparison = numerics.compare(
                _spread(value),
                self.native[name],
                self.reference[name],
                dtype,
                name=name,
                reduction=self.reductions.get(name, 0),
            )
            rms = _share(comparison.rms_ratio, max(comparison.rms_bound, self._native_rms(name, dtype)))
            used = max(rms, _share(comparison.kernel_error, comparison.error_bound))
            if not comparison.same_pattern:
                used = rms = float("inf")
            spread = max(spread, rms)
            if used > share:
                worst, share = comparison, used
        passed = share <= 1
        usable = passed or (not backend and spread <= LIBRARY_FACTOR)
        return Verdict(
            passed=passed, usable=usable, share=share, worst=worst.name if worst else "", text=str(worst or "no result")
        )

    def _native_rms(self, name: str, dtype: torch.dtype) -> float:
        if name not in self._rms:
            native = self.native[name]
            self._rms[name] = numerics.compare(native, native, self.reference[name], dtype).rms_ratio
        return self._rms[name]


def _share(value: float, bound: float) -> float:
    """How much of its error budget a value uses; 1 is just within."""
    return value / bound if bound else (float("inf") if value else 0.0)


def _spread(value: Tensor) -> Tensor:
    """All of a small tensor; of a large one, rows at even distances and the last one."""
    value = value.detach()
    if value.numel() <= MOST_VALUES:
        return value
    rows = max(1, MOST_VALUES // (value.numel() // value.shape[0]))
    return value[torch.linspace(0, value.shape[0] - 1, rows, device=value.device).long()]
