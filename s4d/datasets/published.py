"""How many samples the published lists have, per split, fold and class, to compare a prepared manifest with.

Counted in the lists themselves where `approximate` is False; otherwise a figure that is usually given. A dataset may
have several entries for one split and fold, one for each published list; a manifest agrees if it has the counts of one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from s4d.datasets import CLASS_NAMES


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedCount:
    """Samples of one split and fold in one published list; `classes` is empty where only the total is known."""

    split: str
    total: int
    source: str
    fold: int | None = None
    classes: Mapping[str, int] = field(default_factory=dict)
    approximate: bool = False

    def __post_init__(self) -> None:
        if self.classes and sum(self.classes.values()) != self.total:
            raise ValueError(f"{self.source}: classes add up to {sum(self.classes.values())}, total {self.total}")


def _counts(dataset: str, source: str, split: str, counts: Sequence[int], *, fold: int | None = None) -> PublishedCount:
    """Counts per class in the order of CLASS_NAMES."""
    classes = dict(zip(CLASS_NAMES[dataset], counts, strict=True))
    return PublishedCount(split=split, total=sum(counts), source=source, fold=fold, classes=classes)


def _quoted(dataset: str, source: str, split: str, counts: Sequence[int]) -> PublishedCount:
    """Counts per class in the order of CLASS_NAMES that papers give, not counted in a list."""
    return dataclasses.replace(_counts(dataset, source, split, counts), approximate=True)


def _approximate(source: str, split: str, total: int) -> PublishedCount:
    """A total that papers give, not counted in a list."""
    return PublishedCount(split=split, total=total, source=source, approximate=True)


def _totals(source: str, folds: Sequence[tuple[int, int]]) -> tuple[PublishedCount, ...]:
    """Train and test totals of folds 1, 2, ..."""
    return tuple(
        PublishedCount(split=split, total=total, source=source, fold=fold)
        for fold, pair in enumerate(folds, start=1)
        for split, total in zip(("train", "test"), pair, strict=True)
    )


# Neutral, happiness, sadness, surprise, fear, disgust and anger, as the paper of the dataset has them.
AFFECTNET_TRAIN = (74874, 134415, 25459, 14090, 6378, 3803, 24882)
# Train and test counts of folds 1 to 5, in the order of CLASS_NAMES.
DFEW_FOLDS = (
    ((1956, 1515, 2135, 1738, 1175, 116, 721), (489, 379, 534, 435, 294, 29, 181)),
    ((1956, 1515, 2135, 1738, 1175, 116, 721), (489, 379, 534, 435, 294, 29, 181)),
    ((1956, 1515, 2135, 1738, 1175, 116, 722), (489, 379, 534, 435, 294, 29, 180)),
    ((1956, 1515, 2135, 1739, 1175, 116, 722), (489, 379, 534, 434, 294, 29, 180)),
    ((1956, 1516, 2136, 1739, 1176, 116, 722), (489, 378, 533, 434, 293, 29, 180)),
)
MAFW_FOLDS = (
    (
        (1112, 732, 188, 145, 511, 500, 993, 209, 910, 1176, 857),
        (278, 184, 48, 37, 128, 125, 249, 53, 228, 294, 215),
    ),
    (
        (1112, 733, 189, 145, 511, 500, 993, 209, 910, 1176, 857),
        (278, 183, 47, 37, 128, 125, 249, 53, 228, 294, 215),
    ),
    (
        (1112, 733, 189, 146, 511, 500, 994, 210, 910, 1176, 858),
        (278, 183, 47, 36, 128, 125, 248, 52, 228, 294, 214),
    ),
    (
        (1112, 733, 189, 146, 511, 500, 994, 210, 911, 1176, 858),
        (278, 183, 47, 36, 128, 125, 248, 52, 227, 294, 214),
    ),
    (
        (1112, 733, 189, 146, 512, 500, 994, 210, 911, 1176, 858),
        (278, 183, 47, 36, 127, 125, 248, 52, 227, 294, 214),
    ),
)
MAFW_CAPTIONED = ((6423, 1611), (6425, 1609), (6429, 1605), (6429, 1605), (6430, 1604))
COMPOUND = ((7178, 1818), (7187, 1809), (7198, 1798), (7208, 1788), (7213, 1783))
COMPOUND_CAPTIONED = ((6268, 1590), (6277, 1581), (6288, 1570), (6297, 1561), (6302, 1556))


def _folds(
    dataset: str, source: str, folds: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> tuple[PublishedCount, ...]:
    return tuple(
        _counts(dataset, source, split, counts, fold=fold)
        for fold, pair in enumerate(folds, start=1)
        for split, counts in zip(("train", "test"), pair, strict=True)
    )


PUBLISHED: dict[str, tuple[PublishedCount, ...]] = {
    "affectnet": (
        _quoted("affectnet", "manually annotated part", "train", AFFECTNET_TRAIN),
        _counts("affectnet", "list of the S4D release", "test", (471, 457, 473, 458, 469, 469, 470)),
        _counts("affectnet", "official 7-class list", "test", (500,) * 7),
    ),
    "affectnet8": (
        _quoted("affectnet8", "manually annotated part", "train", (*AFFECTNET_TRAIN, 3750)),
        _quoted("affectnet8", "manually annotated part", "test", (500,) * 8),
        _quoted("affectnet8", "newer package", "test", (*(500,) * 7, 499)),
    ),
    "caer": (
        _approximate("paper: 13,201 clips, shared out 70 to 10 to 20", "train", 9240),
        _approximate("paper: 13,201 clips, shared out 70 to 10 to 20", "val", 1320),
        _approximate("paper: 13,201 clips, shared out 70 to 10 to 20", "test", 2641),
    ),
    "caer_s": (
        _approximate("paper: 70,000 images, shared out 70 to 30", "train", 49_000),
        _approximate("paper: 70,000 images, shared out 70 to 30", "test", 21_000),
    ),
    "celebv_hq": (_approximate("readme; videos vanish from the web", "train", 35_666),),
    "celebv_text": (_approximate("readme; videos vanish from the web", "train", 70_000),),
    "dfew": _folds("dfew", "single-labelled set", DFEW_FOLDS),
    "ferplus": tuple(
        _counts("ferplus", "fer2013new.csv, majority rule", split, counts)
        for split, counts in (
            ("train", (8740, 7287, 3149, 3014, 2100, 119, 532, 119)),
            ("val", (1182, 865, 415, 351, 287, 24, 62, 13)),
            ("test", (1090, 893, 396, 384, 273, 18, 83, 16)),
        )
    ),
    "ferplus_votes": tuple(
        _counts("ferplus_votes", "fer2013new.csv, most votes", split, counts)
        for split, counts in (
            ("train", (10388, 7539, 3588, 3549, 2478, 194, 656, 167)),
            ("val", (1347, 899, 459, 418, 320, 36, 75, 25)),
            ("test", (1278, 929, 446, 448, 326, 23, 94, 29)),
        )
    ),
    "ferv39k": (
        _counts("ferv39k", "all scenes", "train", (5906, 1833, 1680, 5854, 7790, 5523, 2502)),
        _counts("ferv39k", "all scenes", "test", (1487, 467, 431, 1473, 1958, 1393, 638)),
    ),
    "mafw": (
        *_folds("mafw", "single set", MAFW_FOLDS),
        *_totals("single set, clips with a caption", MAFW_CAPTIONED),
    ),
    "mafw_compound": (
        *_totals("compound set", COMPOUND),
        *_totals("compound set, clips with a caption", COMPOUND_CAPTIONED),
    ),
    "rafdb": (
        _counts("rafdb", "basic part", "train", (1290, 281, 717, 4772, 1982, 705, 2524)),
        _counts("rafdb", "basic part", "test", (329, 74, 160, 1185, 478, 162, 680)),
    ),
    "voxceleb2": (PublishedCount(split="train", total=1_092_009, source="files of dev"),),
}
