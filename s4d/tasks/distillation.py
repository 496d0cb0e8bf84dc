"""What the static heads say of a clip as a soft target of the clip's own head, over the classes both have by name.

Where there are more stills than clips, their head has seen more of an expression than the clips' head. The teacher
costs nothing: every head is applied to the pooled features of every sequence anyway. It takes no gradient, so a static
head learns from stills alone; the features do, through the clips' head.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from s4d.data.batch import PackedBatch
from s4d.tasks.shared_classes import SharedClasses


def distillation_share(logits: Mapping[str, Tensor], batch: PackedBatch, pairs: tuple[SharedClasses, ...]) -> Tensor:
    """This batch's share of the mean over the step's clips of KL(static || own), averaged over the static heads.

    Both distributions are over the common classes alone, so what a head gives to its other classes is left to the
    labels. 0 where the batch has no clip.
    """
    sequences = {head.head: head.sequences for head in batch.heads}
    students = [pair.video for pair in pairs]
    terms = []
    for pair in pairs:
        rows = sequences[pair.video]
        student = logits[pair.video].index_select(0, rows).index_select(1, pair.video_columns).log_softmax(1)
        teacher = logits[pair.image].detach().index_select(0, rows).index_select(1, pair.image_columns)
        teacher = teacher.log_softmax(1)
        terms.append((teacher.exp() * (teacher - student)).sum() / students.count(pair.video))
    return torch.stack(terms).sum() / max(1, batch.step_samples.get("video", 0))
