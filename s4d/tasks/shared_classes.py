"""Classes that a head of clips and a static head have in common by name: where what one knows can serve the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from s4d.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedClasses:
    """The classes of one name in a head of clips and in a static head: their columns (C,) int64 in each."""

    video: str
    image: str
    video_columns: Tensor
    image_columns: Tensor


def shared_classes(
    classes: Mapping[str, tuple[str, ...]], modalities: Mapping[str, str], device: torch.device, *, field: str
) -> tuple[SharedClasses, ...]:
    """Every pair of a head of clips and a static head with two classes or more in common.

    UsageError where there is none, naming the `field` of the configuration that needs one.
    """
    pairs = []
    for video in (name for name in classes if modalities[name] == "video"):
        for image in (name for name in classes if modalities[name] == "image"):
            common = [name for name in classes[video] if name in classes[image]]
            if len(common) >= 2:
                columns = [[classes[head].index(name) for name in common] for head in (video, image)]
                mine, theirs = torch.tensor(columns, device=device)
                pairs.append(SharedClasses(video=video, image=image, video_columns=mine, image_columns=theirs))
    if not pairs:
        known = ", ".join(f"{head} has {list(names)}" for head, names in classes.items())
        raise UsageError(f"{field}: no head of clips shares two class names with a static head: {known}")
    return tuple(pairs)
