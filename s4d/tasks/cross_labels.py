"""The labels of stills for the clips' heads, those of clips for the static heads, over the classes both have by name.

A head of few clips so learns from all stills what an expression looks like, and need learn from clips only what time
adds. Every head is applied to every sequence anyway, so this costs a softmax. Training images and videos of different
sets jointly is that of Zhang et al., "Co-training Transformer with Videos and Images Improves Action Recognition",
2021, where heads stay apart.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from s4d.data.batch import PackedBatch
from s4d.tasks.shared_classes import SharedClasses


def cross_label_shares(
    logits: Mapping[str, Tensor], batch: PackedBatch, pairs: tuple[SharedClasses, ...]
) -> dict[str, Tensor]:
    """For each modality of samples this batch's share of the step's mean cross-entropy of the other modality's heads.

    The prediction is over the common classes alone. A sample counts with the part of its target that lies on them, and
    by one in n for each of n heads that have classes of its own head.
    """
    heads = {head.head: head for head in batch.heads}
    ways = [(pair.video, pair.image, pair.video_columns, pair.image_columns) for pair in pairs]
    ways += [(pair.image, pair.video, pair.image_columns, pair.video_columns) for pair in pairs]
    learners = [own for own, *_ in ways]
    shares: dict[str, Tensor] = {}
    for own, other, own_columns, other_columns in ways:
        head = heads[own]
        found = logits[other].index_select(0, head.sequences).index_select(1, other_columns).log_softmax(1)
        targets = head.targets.index_select(1, own_columns).to(found.dtype)
        samples = max(1, batch.step_samples.get(head.modality, 0))
        share = -(targets * found).sum() / (samples * learners.count(own))
        shares[head.modality] = shares[head.modality] + share if head.modality in shares else share
    return shares
