"""Random clips and stills and the choice of their tokens, shared by the cases of embedding and reconstruction."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelCase:
    """``slices`` of ``tubelet`` frames each, or 0: a still. ``wanted``: all, half, none, one, shuffled or repeated."""

    samples: int = 2
    slices: int = 2
    tubelet: int = 2
    patch: int = 8
    rows: int = 2
    columns: int = 3
    width: int = 16
    wanted: str = "half"
    seed: int = 0

    @property
    def frames(self) -> int:
        """Frames of a sample."""
        return max(1, self.slices * self.tubelet)

    @property
    def tokens(self) -> int:
        """Tokens of all samples."""
        return self.samples * max(1, self.slices) * self.rows * self.columns

    @property
    def values(self) -> int:
        """Pixel values of a tubelet."""
        return self.tubelet * self.patch**2 * 3

    def pixels(self) -> Tensor:
        """Uint8 (n, F, H, W, 3)."""
        generator = torch.Generator().manual_seed(self.seed)
        shape = (self.samples, self.frames, self.rows * self.patch, self.columns * self.patch, 3)
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)

    def indices(self) -> Tensor:
        """Int64 (M,)."""
        shuffled = torch.randperm(self.tokens, generator=torch.Generator().manual_seed(self.seed + 1))
        half = shuffled[: (self.tokens + 1) // 2]
        return {
            "all": torch.arange(self.tokens),
            "half": half.sort().values,
            "none": shuffled[:0],
            "one": shuffled[:1],
            "shuffled": half,
            "repeated": torch.cat((half, half[:3], half[:1])),
        }[self.wanted]


def pixel_fields(interpreted: bool) -> dict[str, SearchStrategy[object]]:
    """Strategies for the fields above."""
    return {
        "samples": st.integers(1, 3),
        "slices": st.integers(0, 2),
        "tubelet": st.sampled_from((2, 2, 2, 1, 3)),
        "patch": st.sampled_from((4, 8) if interpreted else (4, 8, 14, 16)),
        "rows": st.integers(1, 2 if interpreted else 3),
        "columns": st.integers(1, 3),
        "width": st.sampled_from((8, 16, 20, 33) if interpreted else (8, 16, 20, 33, 64, 70)),
        "wanted": st.sampled_from(("all", "half", "half", "shuffled", "repeated", "one", "none")),
        "seed": st.integers(0, 2**31),
    }
