"""Runs every part of the correlation study and writes the page and the document."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from s4d.analysis.correlation.gradients import gradient_study
from s4d.analysis.correlation.page import Part, write_study
from s4d.analysis.correlation.parts import label_part, representation_part, scaling_part, transfer_part
from s4d.analysis.correlation.routing import routing_study
from s4d.analysis.correlation.study import head_study
from s4d.analysis.correlation.subjects import Cast, load_cast
from s4d.analysis.correlation.training_parts import gradient_part, routing_part

Progress = Callable[[int, int], None]


def correlate(
    runs: Sequence[Path],
    out: Path,
    *,
    split: str = "test",
    static: str | None = None,
    dynamic: str | None = None,
    scaling: Path | None = None,
    device: torch.device | None = None,
    progress: Progress = lambda done, total: None,
) -> tuple[Path, dict[str, Any]]:
    """Study the first run, with the further ones beside it; returns the page's path and every number.

    UsageError and DataError as `load_cast` raises them, and for media and checkpoints that cannot be read.
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # Read first: a wrong folder should not cost the rest.
    scaled = [] if scaling is None else [scaling_part(scaling)]
    cast = load_cast(runs, static=static, dynamic=dynamic, device=device)
    heads = head_study(cast, split, device, lambda _, done, total: progress(done, total))
    parts = [
        transfer_part(heads.transfer),
        representation_part(heads.representation),
        *_training(cast, split, device, progress),
        label_part(heads.labels),
        *scaled,
    ]
    return write_study(out, cast, split, heads.shown, parts)


def _training(cast: Cast, split: str, device: torch.device, progress: Progress) -> list[Part]:
    """Part (c) of the runs trained on both tasks, part (d) of those with experts; whole run folders alone."""
    whole = [(subject, path.parent) for subject in cast.subjects if (path := subject.model.run_config) is not None]
    joint = [(subject.name, folder) for subject, folder in whole if subject.is_joint]
    routed = [(subject.name, folder) for subject, folder in whole if subject.model.arch.experts is not None]
    names, folders = zip(*joint, strict=True)
    parts = [gradient_part(gradient_study(folders, names=names, device=device, progress=progress))]
    if routed:
        names, folders = zip(*routed, strict=True)
        told = partial(_unnamed, progress)
        parts.append(routing_part(routing_study(folders, split=split, names=names, device=device, progress=told)))
    return parts


def _unnamed(progress: Progress, _: str, done: int, total: int) -> None:
    progress(done, total)
