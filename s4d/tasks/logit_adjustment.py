"""Logits that carry the classes' prior in training, so that it need not be learned and is absent from predictions.

With tau 1 the best classifier under this loss ranks classes by p(class | x) / p(class), which is best for the mean
recall over classes (Menon et al., "Long-tail learning via logit adjustment", ICLR 2021).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def logit_offsets(priors: Mapping[str, Sequence[float]], tau: float, device: torch.device) -> dict[str, Tensor]:
    """What is added to the logits of each head in the training loss: tau log prior, (K,) float64 on `device`."""
    return {
        head: tau * torch.tensor(shares, dtype=torch.float64, device=device).log() for head, shares in priors.items()
    }
