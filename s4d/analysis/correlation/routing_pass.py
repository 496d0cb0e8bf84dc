"""Which experts the tokens of every evaluated sample choose, and which they choose together.

Letters: n samples, L MoAE layers, E experts, k choices of a token, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from s4d.data.evaluation import EvalBatches
from s4d.errors import DataError
from s4d.models.classifier import ClassifierOutput, FinetuneModel
from s4d.models.moae import RoutingTerms
from s4d.models.stream import Layout, sequence_ids
from s4d.tasks.balance import choices_per_sequence

Counts = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """The readable samples of one source: `counts` (n, L, E) are choices over all views and tokens of a sample.

    `labels` (n,) are numbers of `classes`; `pairs` (L, E, E) counts tokens with both experts among their choices, over
    all samples, symmetric with an empty diagonal. Choices are the router's, before a capacity drops any.
    """

    source: str
    modality: str
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    counts: Counts
    pairs: Counts
    unreadable: int

    def __post_init__(self) -> None:
        if self.counts.ndim != 3 or len(self.counts) != len(self.labels) or not self.labels.size:
            raise ValueError(f"counts: expected ({len(self.labels)}, layers, experts), got {self.counts.shape}")
        layers, experts = self.counts.shape[1:]
        if self.pairs.shape != (layers, experts, experts):
            raise ValueError(f"pairs: expected {(layers, experts, experts)}, got {self.pairs.shape}")

    @property
    def shares(self) -> NDArray[np.float64]:
        """Share of a sample's choices that fell on each expert, (n, L, E)."""
        return self.counts / self.counts.sum(2, keepdims=True)


def collect_choices(
    model: FinetuneModel,
    batches: EvalBatches,
    device: torch.device,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Choices:
    """Run a model with experts over evaluation batches of one source.

    DataError where not one sample could be read, or one could not under `data.on_error: error`.
    """
    experts = model.arch.experts
    assert experts is not None
    source = batches.source
    shape = (len(experts.layers), experts.num_experts)
    counts = torch.zeros(len(source.rows), *shape, dtype=torch.int64)
    pairs = torch.zeros(*shape, experts.num_experts, dtype=torch.int64)
    with torch.no_grad():
        for number, item in enumerate(batches, start=1):
            batch = item.batch.to(device)
            output: ClassifierOutput = model(batch)
            real = item.weights > 0
            for layer, terms in enumerate(output.routing):
                chosen = choices_per_sequence(terms, batch.layout, batch.num_sequences).cpu()
                counts[:, layer].index_add_(0, item.samples[real], chosen[real])
                pairs[layer] += chosen_together(terms, batch.layout, real.to(device)).cpu()
            progress(number, len(batches))
    if batches.refused:
        raise DataError(batches.refused)
    read = counts.sum((1, 2)) > 0
    if not read.any():
        raise DataError(f"{source.config.manifest}: not one sample could be read")
    return Choices(
        source=source.config.name,
        modality=source.config.modality,
        classes=source.classes,
        labels=np.asarray(source.labels, dtype=np.int64)[read.numpy()],
        counts=counts[read].numpy(),
        pairs=pairs.numpy(),
        unreadable=int((~read).sum()),
    )


def chosen_together(terms: RoutingTerms, layout: Layout, real: Tensor) -> Tensor:
    """Tokens of the `real` (B,) sequences that chose both of two experts, (E, E) int64 with an empty diagonal."""
    experts = terms.router_logits.shape[1]
    counted = real[sequence_ids(layout, terms.expert_ids.device)]
    chosen = torch.zeros(len(counted), experts, dtype=torch.float64, device=counted.device)
    chosen.scatter_(1, terms.expert_ids, 1.0)
    chosen *= counted[:, None]
    both = chosen.T @ chosen
    return both.fill_diagonal_(0).to(torch.int64)
