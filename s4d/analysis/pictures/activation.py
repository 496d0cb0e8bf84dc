"""The classifier's answer for every temporal slice of a clip.

The pooled feature is the mean over slices of these slice features, exactly; final norm and softmax come after the mean,
so that the slices' probabilities do not add up to the clip's. Slices have seen each other through attention.
Letters: t tokens of one sequence, D width, S temporal slices, K classes.
"""

from __future__ import annotations

from torch import Tensor

from s4d.models.classifier import FinetuneModel
from s4d.models.stream import statistics_dtype


def slice_features(tokens: Tensor, slices: int) -> Tensor:
    """Mean (S, D) over the patches of each temporal slice of `tokens` (t, D), before the final norm."""
    return tokens.to(statistics_dtype(tokens)).view(slices, -1, tokens.shape[1]).mean(1)


def slice_probabilities(module: FinetuneModel, tokens: Tensor, slices: int, head: str) -> Tensor:
    """Probabilities (S, K) of `head` for each temporal slice alone."""
    features = module.fc_norm(slice_features(tokens, slices).to(tokens.dtype))
    logits: Tensor = module.head[head](features)
    return logits.to(statistics_dtype(logits)).softmax(1)
