"""Right before fast: every peer's results are held against the definition before it is timed.

The measure is the policy of ``kernels.numerics``, which the tests hold on many inputs. Here, on one input, it says
whether a time is worth stating, so two things may exceed it by ``SLACK``, which the result then shows. The largest
error: its bound is set by the error of plain PyTorch, which on one input may be tiny by luck. And the RMS error of a
library: one that rounds more often than we may is still a rival. The RMS row of our backends has no slack, but where
plain PyTorch itself is at its border, twice its own figure takes the place of the row: router biases in bfloat16 are
eight sums of thousands of terms that cancel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels import numerics

SLACK = 4.0
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
        self.shapes = {name: value.shape for name, value in reference.items()}
        self.reductions = reductions
        self._rms: dict[str, float] = {}

    def judge(self, results: Mapping[str, Tensor], dtype: torch.dtype, *, backend: bool) -> Verdict:
        """Hold the ``results`` of one peer against the expected ones."""
        if set(results) != set(self.reference):
            text = f"expected the results {sorted(self.reference)}, got {sorted(results)}"
            return Verdict(passed=False, usable=False, share=float("inf"), worst="", text=text)
        worst, share, usable = None, -1.0, True
        for name, value in results.items():
            if value.shape != self.shapes[name] or not bool(value.isfinite().all()):
                text = f"{name}: expected finite {tuple(self.shapes[name])}, got {tuple(value.shape)} or other values"
                return Verdict(passed=False, usable=False, share=float("inf"), worst=name, text=text)
            comparison = numerics.compare(
                _spread(value),
                self.native[name],
                self.reference[name],
                dtype,
                name=name,
                reduction=self.reductions.get(name, 0),
            )
            rms = _share(comparison.rms_ratio, max(comparison.rms_bound, 2 * self._native_rms(name, dtype)))
            largest = _share(comparison.kernel_error, comparison.error_bound)
            within = rms <= (1.0 if backend else SLACK) and (largest <= SLACK or not backend)
            usable = usable and within and comparison.same_pattern
            used = max(rms, largest) if comparison.same_pattern else float("inf")
            if used > share:
                worst, share = comparison, used
        return Verdict(
            passed=share <= 1,
            usable=usable,
            share=share,
            worst=worst.name if worst else "",
            text=str(worst or "no result"),
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
