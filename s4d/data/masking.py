"""Random token masks with an exact count, one per view."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def masked_count(tokens: int, ratio: float) -> int:
    """Tokens to hide: the whole part of ratio * tokens, as released (90 of 100, 760 of 800)."""
    return int(ratio * tokens)


def split_tokens(mask_seed: int, tokens: int, ratio: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ascending visible and masked token indices of one view; a pure function of `mask_seed`."""
    order = np.random.Generator(np.random.Philox(key=mask_seed)).permutation(tokens)
    count = masked_count(tokens, ratio)
    return np.sort(order[count:]), np.sort(order[:count])
