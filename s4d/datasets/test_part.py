"""A test part for one's own labelled data that names no split: by person where people are known, else by class."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from s4d.data.counter import stable_key
from s4d.data.manifest import ManifestRow

logger = logging.getLogger(__name__)

SHARE = 0.2


def with_test_part(origin: Path, rows: Sequence[ManifestRow]) -> list[ManifestRow]:
    """`rows` with a fifth of the labelled ones in split test, and a line about it; unlabelled ones stay in train.

    Whole people where samples name two or more, else a fifth of each class. Names alone decide, so every call chooses
    alike, and most samples keep their side when others are added.
    """
    labelled = [row for row in rows if row.label is not None]
    people = {row.identity for row in labelled if row.identity is not None}
    if len(people) > 1:
        test = _chosen(labelled, lambda row: row.sample_id if row.identity is None else f"identity {row.identity}")
        how = "no person that is named is in both parts"
    else:
        classes: dict[str | None, list[ManifestRow]] = {}
        for row in labelled:
            classes.setdefault(row.label, []).append(row)
        chosen = [_chosen(group, lambda row: row.sample_id) for group in classes.values() if len(group) > 1]
        test = frozenset[str]().union(*chosen)
        how = "nothing says who is seen, so a person may be in both parts"
    if labelled:
        logger.warning(
            "%s: names no split; %d of %d samples become the test part; %s", origin, len(test), len(rows), how
        )
    return [replace(row, split="test") if row.sample_id in test else row for row in rows]


def _chosen(rows: Iterable[ManifestRow], group_of: Callable[[ManifestRow], str]) -> frozenset[str]:
    """Sample ids of whole groups in the order of their hash, no more than the share; of one group at least."""
    groups: dict[str, list[str]] = {}
    for row in rows:
        groups.setdefault(group_of(row), []).append(row.sample_id)
    room = math.ceil(SHARE * sum(map(len, groups.values())))
    chosen: list[str] = []
    for name in sorted(groups, key=lambda name: (stable_key("test part", name), name)):
        if len(chosen) + len(groups[name]) <= room:
            chosen += groups[name]
    smallest = min(groups.values(), key=len)
    return frozenset(chosen or smallest)
