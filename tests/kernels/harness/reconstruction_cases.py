"""Cases of the masked reconstruction loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from harness.operation import Named, Operands, Operation
from harness.pixel_cases import PixelCase, pixel_fields
from harness.random_operands import normals
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from kernels.reconstruction import BACKENDS, masked_loss


@dataclass(frozen=True, kw_only=True, slots=True)
class ReconstructionCase(PixelCase):
    """``upstream`` is the gradient that arrives at the loss."""

    upstream: float = 1.0


def _cases(interpreted: bool) -> SearchStrategy[ReconstructionCase]:
    return st.builds(ReconstructionCase, **pixel_fields(interpreted), upstream=st.sampled_from((1.0, -3.0, 48.0)))


_EDGES = (
    ReconstructionCase(slices=0, upstream=48.0),
    ReconstructionCase(wanted="none"),
    ReconstructionCase(wanted="one", upstream=-3.0),
    ReconstructionCase(wanted="repeated", width=33),
    ReconstructionCase(slices=1, patch=14, samples=1, width=20),
    ReconstructionCase(slices=1, patch=16, rows=1, width=20),
    ReconstructionCase(slices=2, tubelet=3, patch=4, wanted="all"),
)


def _operands(case: ReconstructionCase, dtype: torch.dtype) -> Operands:
    normal = normals(case.seed, dtype)
    indices = case.indices()
    return Operands(
        leaves={
            "hidden": normal(indices.shape[0], case.width),
            "head_weight": normal(case.values, case.width, scale=case.width**-0.5),
            "head_bias": normal(case.values, scale=0.1),
        },
        upstream={"loss": torch.tensor(case.upstream, dtype=torch.float64)},
        fixed={"pixels": case.pixels(), "indices": indices},
    )


def _forward(case: ReconstructionCase, leaves: Named, fixed: Named, backend: str) -> Named:
    operands = (leaves["hidden"], leaves["head_weight"], leaves["head_bias"], fixed["pixels"], fixed["indices"])
    loss, count = masked_loss(*operands, tubelet_size=case.tubelet, backend=backend)
    return {"loss": loss, "count": torch.tensor(count)}


def _exact(case: ReconstructionCase, leaves: Named, fixed: Named) -> Named:
    return _forward(case, leaves, fixed, "reference")


RECONSTRUCTION = Operation(
    name="reconstruction",
    backends=BACKENDS,
    cases=_cases,
    edges=_EDGES,
    smooth=ReconstructionCase(samples=1, slices=1, patch=4, rows=1, columns=3, width=8, wanted="all"),
    busy=ReconstructionCase(samples=8, slices=4, rows=3, width=64),
    operands=_operands,
    forward=_forward,
    exact=_exact,
    native=_exact,
)
