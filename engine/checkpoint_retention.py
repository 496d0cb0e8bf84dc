"""Which checkpoints of a run stay: the newest, every so many steps, the best by a score; and the pointers to them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.checkpoint_files import REPLACED, STATE, STEP, discard, flush, read_plain, replace_text
from engine.checkpoint_manifest import MAX_BYTES, parse_json

LATEST, BEST = "latest", "best"


@dataclass(frozen=True, kw_only=True, slots=True)
class Retention:
    """The newest `keep_last`, those of steps divisible by `keep_every`, and the one whose score `keep_best` is largest.

    None: nothing is kept for that reason.
    """

    keep_last: int
    keep_every: int | None = None
    keep_best: str | None = None

    def kept(self, steps: Iterable[int], *, latest: int, best: int | None) -> set[int]:
        """Of the published `steps`, those that stay once `latest` is saved.

        Later steps go: the run was taken back behind them, and what it does now is not what they came from.
        """
        present = sorted(step for step in steps if step <= latest)
        every = {step for step in present if self.keep_every and step % self.keep_every == 0}
        return {*present[-self.keep_last :], *every, latest} | ({best} if best in present else set())


def published(folder: Path) -> list[Path]:
    """Checkpoint folders under their final name, newest first."""
    found = [path for path in folder.glob("step-*") if STEP.fullmatch(path.name.removesuffix(REPLACED))]
    return sorted(found, key=lambda path: (step_of(path), not path.name.endswith(REPLACED)), reverse=True)


def step_of(path: Path) -> int:
    """Step in the name of a checkpoint folder."""
    match = STEP.fullmatch(path.name.removesuffix(REPLACED))
    assert match is not None, path
    return int(match[1])


def best_of(scores: Mapping[int, float]) -> int | None:
    """Step with the largest score, the earliest of equals; what is not finite does not count."""
    finite = {step: score for step, score in scores.items() if math.isfinite(score)}
    return min(finite, key=lambda step: (-finite[step], step), default=None)


def read_scores(folder: Path, name: str) -> dict[int, float]:
    """One score of every published checkpoint that was evaluated at its own step."""
    found = {}
    for checkpoint in published(folder):
        try:
            score = parse_json(read_plain(checkpoint / STATE, MAX_BYTES))["scores"][name]
        except (OSError, ValueError, KeyError, TypeError):
            # A damaged or older checkpoint cannot be the best; loading it would say what is wrong with it.
            continue
        if isinstance(score, float):
            found[step_of(checkpoint)] = score
    return found


def update(folder: Path, target: Path, retention: Retention) -> None:
    """Point `latest` at the checkpoint just written and `best` at the best, then remove what is not kept."""
    replace_text(folder / LATEST, target.name + "\n")
    latest, best = step_of(target), None
    if retention.keep_best is not None:
        scores = read_scores(folder, retention.keep_best)
        best = best_of({step: score for step, score in scores.items() if step <= latest})
    if best is not None:
        replace_text(folder / BEST, f"step-{best:08d}\n")
    elif (folder / BEST).exists():
        (folder / BEST).unlink()
        flush(folder)
    folders = published(folder)
    kept = retention.kept(map(step_of, folders), latest=latest, best=best)
    for old in folders:
        if step_of(old) not in kept:
            discard(old)
