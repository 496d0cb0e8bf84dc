"""Random token masks with an exact count, one per view."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def masked_count(tokens: int, ratio: float) -> int:
    """Tokens to hide: the whole part of ratio * tokens, as released (90 of 100, 760 of 800)."""
    return int(ratio * tokens)


def decoded_count(masked: int, ratio: float) -> int:
    """Of the masked tokens those that the decoder sees and predicts: the whole part of ratio * masked."""
    return int(ratio * masked)


def split_tokens(
    mask_seed: int, tokens: int, ratio: float, decode_ratio: float = 1.0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ascending indices of one view's visible tokens and of those to predict; a pure function of `mask_seed`.

    With `decode_ratio` below 1, masked tokens are left out of the decoder, as in VideoMAE V2. Its running cells spread
    the rest evenly over clips whose mask is a tube of columns; here the mask itself is uniform over space and time, and
    a uniform choice from it, of an exact number, is again one. It is a part of the choice at any larger share.
    """
    order = np.random.Generator(np.random.Philox(key=mask_seed)).permutation(tokens)
    count = masked_count(tokens, ratio)
    return np.sort(order[count:]), np.sort(order[: decoded_count(count, decode_ratio)])
