"""What the numbers of AffectNet's annotations mean, in every form that it is handed out in."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from s4d.datasets.listing import class_number

logger = logging.getLogger(__name__)

# The first seven make AffectNet-7, the first eight AffectNet-8; images of the last three are left out.
CODES = (
    "neutral",
    "happiness",
    "sadness",
    "surprise",
    "fear",
    "disgust",
    "anger",
    "contempt",
    "none",
    "uncertain",
    "no face",
)


def kept_label(code: str, classes: Sequence[str], where: str, left_out: Counter[str]) -> str | None:
    """The class of a code, None (and counted) for one that is not among `classes`; DataError for an unknown code."""
    label = class_number(code, CODES, where)
    if label in classes:
        return label
    left_out[label] += 1
    return None


def tell_left_out(path: Path, left_out: Counter[str], classes: Sequence[str]) -> None:
    """One line about the images of a file or folder that belong to no class."""
    if left_out:
        counted = ", ".join(f"{left_out[name]} {name}" for name in CODES if left_out[name])
        logger.warning(
            "%s: %d images left out, in none of the %d classes: %s", path, left_out.total(), len(classes), counted
        )
