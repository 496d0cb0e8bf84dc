"""What the static heads say of a clip as a soft target of the clip's own head, over the classes both have by name.

Where there are more stills than clips, their head has seen more of an expression than the clips' head. The teacher
costs nothing: every head is applied to the pooled features of every sequence anyway. It takes no gradient, so a static
head learns from stills alone; the features do, through the clips' head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from s4d.data.batch import PackedBatch
from s4d.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedClasses:
    """The classes of one name in a head of clips and in a static head: their columns (C,) int64 in each."""

    student: str
    teacher: str
    student_columns: Tensor
    teacher_columns: Tensor


def shared_classes(
    classes: Mapping[str, tuple[str, ...]], modalities: Mapping[str, str], device: torch.device
) -> tuple[SharedClasses, ...]:
    """Every pair of a head of clips and a static head with two classes or more in common; UsageError if none has."""
    pairs = []
    for student in (name for name in classes if modalities[name] == "video"):
        for teacher in (name for name in classes if modalities[name] == "image"):
            common = [name for name in classes[student] if name in classes[teacher]]
            if len(common) >= 2:
                columns = [[classes[head].index(name) for name in common] for head in (student, teacher)]
                mine, theirs = torch.tensor(columns, device=device)
                pairs.append(
                    SharedClasses(student=student, teacher=teacher, student_columns=mine, teacher_columns=theirs)
                )
    if not pairs:
        raise UsageError(
            f"loss.static_distillation: no head of clips shares two class names with a static head: "
            f"{', '.join(f'{head} has {list(names)}' for head, names in classes.items())}"
        )
    return tuple(pairs)


def distillation_share(logits: Mapping[str, Tensor], batch: PackedBatch, pairs: tuple[SharedClasses, ...]) -> Tensor:
    """This batch's share of the mean over the step's clips of KL(teacher || student), averaged over a head's teachers.

    Both distributions are over the common classes alone, so what the student gives to its other classes is left to the
    labels. 0 where the batch has no clip.
    """
    sequences = {head.head: head.sequences for head in batch.heads}
    students = [pair.student for pair in pairs]
    terms = []
    for pair in pairs:
        rows = sequences[pair.student]
        student = logits[pair.student].index_select(0, rows).index_select(1, pair.student_columns).log_softmax(1)
        teacher = logits[pair.teacher].detach().index_select(0, rows).index_select(1, pair.teacher_columns)
        teacher = teacher.log_softmax(1)
        terms.append((teacher.exp() * (teacher - student)).sum() / students.count(pair.student))
    return torch.stack(terms).sum() / max(1, batch.step_samples.get("video", 0))
