"""What the finished rows say together: scores of every arm over its seeds, and the gains that were asked about.

Letters: S seeds, n test samples, K classes.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s4d.analysis.predictions import Predictions, read_predictions
from s4d.errors import DataError
from s4d.science.arms import ARMS, BEST, DYNAMIC, QUESTIONS, REFERENCE, STATIC, Group, arm_named
from s4d.statistics import ScoreIntervals, hierarchical_bootstrap, paired_bootstrap

SCORES = ("uar", "war")


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """A finished row: its document, and where its predictions are."""

    arm: str
    seed: int
    document: dict[str, Any]
    predictions: Path

    def score(self, source: str, name: str) -> float | None:
        """UAR or WAR of the head of a set; None in an arm without that head."""
        entry = self.document["scores"].get(source)
        return None if entry is None else float(entry[name])

    def cross_score(self, source: str, name: str) -> float | None:
        """UAR or WAR on a set that the arm was not given, of the head it has."""
        entry = self.document.get("cross_use")
        return float(entry[name]) if entry is not None and entry["source"] == source else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """Mean and sample standard deviation (None with one seed) of a number over seeds; `is_cross`: of the other head."""

    mean: float
    deviation: float | None
    values: tuple[float, ...]
    is_cross: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Gain:
    """What `after` gains over `before` on a set, in the seeds that both have; None of them: `scores` is None.

    With two or more seeds the intervals are of seeds and samples, with one of samples alone.
    """

    before: str
    after: str
    source: str
    seeds: tuple[int, ...]
    scores: ScoreIntervals | None


def read_results(folder: Path) -> list[Result]:
    """All rows below a folder in order of arms and seeds; DataError for one of other data than the rest."""
    found, data = [], None
    for path in sorted(folder.glob("*.json")):
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            if document["kind"] != "measurement":
                continue
            result = Result(
                arm=document["arm"],
                seed=document["seed"],
                document=document,
                predictions=path.with_suffix(".npz"),
            )
            amounts = document["settings"]["data"]
            _ = document["scores"], document["curve"], document["seconds"], document["steps"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: no result of `s4d science run`: {error!r}") from error
        if data is not None and amounts != data:
            raise DataError(f"{path}: settings.data: {amounts}, but rows before it have {data}")
        data = amounts
        found.append(result)
    order = {arm.name: place for place, arm in enumerate(ARMS)}
    return sorted(found, key=lambda result: (order.get(result.arm, len(order)), result.arm, result.seed))


def arms_in(results: Sequence[Result], group: Group) -> list[str]:
    """Names of the arms of a group that have a result, in order.

    The claim's end with the best variation, the scaling with the arm of all stills.
    """
    wanted = [arm for arm in ARMS if arm.group == group]
    if group == "claim":
        wanted.append(arm_named(BEST))
    if group == "scaling":
        wanted = sorted([*wanted, arm_named(REFERENCE)], key=lambda arm: arm.stills)
    names = [arm.name for arm in wanted if any(result.arm == arm.name for result in results)]
    return names if names != [REFERENCE] else []


def spread(results: Sequence[Result], arm: str, source: str, score: str) -> Spread | None:
    """A score of an arm on a set over its seeds: of its own head, else of the other one; None without either."""
    own = [result for result in results if result.arm == arm]
    heads = [value for result in own if (value := result.score(source, score)) is not None]
    crossed = [value for result in own if (value := result.cross_score(source, score)) is not None]
    values = heads or crossed
    if not values:
        return None
    return Spread(
        mean=statistics.mean(values),
        deviation=statistics.stdev(values) if len(values) > 1 else None,
        values=tuple(values),
        is_cross=not heads,
    )


def gains(results: Sequence[Result], questions: Sequence[tuple[str, str, str]] = QUESTIONS) -> list[Gain]:
    """The answers to questions (before, after, set), in their order; those that no seed answers are left out."""
    found = [_gain(results, *question) for question in questions]
    return [gain for gain in found if gain.seeds]


def _gain(results: Sequence[Result], before: str, after: str, source: str) -> Gain:
    by_row = {(result.arm, result.seed): result for result in results}
    seeds = sorted(
        seed
        for arm, seed in by_row
        if arm == before and (after, seed) in by_row and by_row[before, seed].score(source, "uar") is not None
    )
    if not seeds:
        return Gain(before=before, after=after, source=source, seeds=(), scores=None)
    pairs = [(_heads(by_row[before, seed], source), _heads(by_row[after, seed], source)) for seed in seeds]
    reference = pairs[0][0]
    rows: tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]] = ([], [])
    for pair, seed in zip(pairs, seeds, strict=True):
        for side, (head, arm) in enumerate(zip(pair, (before, after), strict=True)):
            rows[side].append(_aligned(head, reference, by_row[arm, seed].predictions))
    first, second = (np.stack(side) for side in rows)
    classes = len(reference.classes)
    if len(seeds) > 1:
        scores = hierarchical_bootstrap(first, second, reference.labels, classes=classes)
    else:
        scores = paired_bootstrap(first[0], second[0], reference.labels, classes=classes)
    return Gain(before=before, after=after, source=source, seeds=tuple(seeds), scores=scores)


def _heads(result: Result, source: str) -> Predictions:
    heads = read_predictions(result.predictions)
    if source not in heads:
        raise DataError(f"{result.predictions}: holds no predictions of {source}")
    return heads[source]


def _aligned(head: Predictions, reference: Predictions, path: Path) -> NDArray[np.int64]:
    """Predicted class numbers (n,); DataError unless samples, labels and classes are those of the reference."""
    same = head.sample_ids == reference.sample_ids and head.classes == reference.classes
    if not same or not np.array_equal(head.labels, reference.labels):
        raise DataError(f"{path}: {head.source}: other test samples, labels or classes than the rows beside it")
    return head.probabilities.argmax(1)


def to_dict(results: Sequence[Result]) -> dict[str, Any]:
    """Plain values for JSON: `arms` and `gains`."""
    arms = [
        {
            "arm": arm.name,
            "title": arm.title,
            "group": arm.group,
            "seeds": [result.seed for result in results if result.arm == arm.name],
            "scores": {source: _scores(results, arm.name, source) for source in (DYNAMIC, STATIC)},
        }
        for arm in ARMS
        if any(result.arm == arm.name for result in results)
    ]
    answers = [
        {
            "before": gain.before,
            "after": gain.after,
            "source": gain.source,
            "seeds": list(gain.seeds),
            "uar": None if gain.scores is None else gain.scores.uar.to_dict(),
            "war": None if gain.scores is None else gain.scores.war.to_dict(),
        }
        for gain in gains(results)
    ]
    return {"arms": arms, "gains": answers}


def _scores(results: Sequence[Result], arm: str, source: str) -> dict[str, Any] | None:
    found = {name: spread(results, arm, source, name) for name in SCORES}
    return {
        name: {
            "mean": each.mean,
            "deviation": each.deviation,
            "values": list(each.values),
            "is_cross_use": each.is_cross,
        }
        for name, each in found.items()
        if each is not None
    } or None
