"""Cases of the visible-patch embedding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from harness.operation import Named, Operands, Operation
from harness.pixel_cases import PixelCase, pixel_fields
from harness.random_operands import normals
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from kernels.patch import BACKENDS, Erase, Mix, embed_visible


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchCase(PixelCase):
    """``mix`` is none, mixup or cutmix; ``erase`` is none, black or noise."""

    mix: str = "none"
    erase: str = "none"


def _cases(interpreted: bool) -> SearchStrategy[PatchCase]:
    return st.builds(
        PatchCase,
        **pixel_fields(interpreted),
        mix=st.sampled_from(("none", "mixup", "cutmix")),
        erase=st.sampled_from(("none", "black", "noise")),
    )


_EDGES = (
    PatchCase(slices=0, mix="cutmix", erase="noise"),
    PatchCase(mix="mixup", erase="noise", wanted="shuffled"),
    PatchCase(wanted="none"),
    PatchCase(slices=0, wanted="repeated", samples=1, rows=1, columns=1),
    PatchCase(slices=1, patch=14, samples=1, erase="black"),
    PatchCase(slices=1, patch=16, rows=1, mix="cutmix", width=33),
    PatchCase(tubelet=3, slices=2, patch=4, wanted="all"),
)


def _boxes(case: PatchCase, seed: int) -> torch.Tensor:
    """Int32 (n, 4): corners anywhere in the frame, every other box empty."""
    generator = torch.Generator().manual_seed(seed)
    height, width = case.rows * case.patch, case.columns * case.patch
    ys = torch.randint(0, height + 1, (case.samples, 2), generator=generator).sort(1).values
    xs = torch.randint(0, width + 1, (case.samples, 2), generator=generator).sort(1).values
    box = torch.stack((ys[:, 0], xs[:, 0], ys[:, 1], xs[:, 1]), 1)
    box[1::2] = 0
    return box.to(torch.int32)


def _operands(case: PatchCase, dtype: torch.dtype) -> Operands:
    normal = normals(case.seed, dtype)
    indices, n = case.indices(), case.samples
    generator = torch.Generator().manual_seed(case.seed + 2)
    return Operands(
        leaves={
            "weight": normal(case.width, 3, case.tubelet, case.patch, case.patch, scale=case.values**-0.5),
            "bias": normal(case.width, scale=0.1),
        },
        upstream={"output": normal(indices.shape[0], case.width)},
        fixed={
            "pixels": case.pixels(),
            "indices": indices,
            "mean": torch.tensor([0.485, 0.456, 0.406]),
            "std": torch.tensor([0.229, 0.224, 0.225]),
            "partner": torch.randperm(n, generator=generator),
            "lam": torch.rand(n, generator=generator),
            "mix_box": _boxes(case, case.seed + 3),
            "erase_box": _boxes(case, case.seed + 4),
            "erase_seed": torch.randint(-(1 << 62), 1 << 62, (n,), generator=generator),
        },
    )


def _forward(case: PatchCase, leaves: Named, fixed: Named, backend: str) -> Named:
    box = fixed["mix_box"] if case.mix == "cutmix" else None
    mix = Mix(partner=fixed["partner"], lam=fixed["lam"], box=box) if case.mix != "none" else None
    erase = None
    if case.erase != "none":
        erase = Erase(box=fixed["erase_box"], seed=fixed["erase_seed"], noise=case.erase == "noise")
    operands = (fixed["pixels"], fixed["indices"], leaves["weight"], leaves["bias"], fixed["mean"], fixed["std"])
    return {"output": embed_visible(*operands, mix=mix, erase=erase, backend=backend)}


def _exact(case: PatchCase, leaves: Named, fixed: Named) -> Named:
    return _forward(case, leaves, fixed, "reference")


PATCH = Operation(
    name="patch",
    backends=BACKENDS,
    cases=_cases,
    edges=_EDGES,
    smooth=PatchCase(samples=2, slices=1, patch=4, rows=1, columns=2, width=8, mix="mixup"),
    busy=PatchCase(samples=8, slices=4, rows=3, width=64, mix="mixup", erase="noise"),
    operands=_operands,
    forward=_forward,
    exact=_exact,
    native=_exact,
)
