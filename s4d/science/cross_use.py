"""The head of an arm with one labelled set, used on the other set: frames as images, stills held as clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from s4d.analysis.correlation.features import observe, showings
from s4d.analysis.correlation.transfer import judge
from s4d.config import Config
from s4d.models.trained import load_trained
from s4d.science.arms import DYNAMIC, STATIC


def cross_use(run_dir: Path, own: str, config: Config, device: torch.device) -> dict[str, Any]:
    """`source`, `showing`, `uar` and `war` of the head `own` of a run on the test split of the set it was not given.

    `config` has both sets. Clips are shown to the head for stills frame by frame, its probabilities averaged.
    """
    model = load_trained(run_dir, device=device)
    showing = showings(STATIC, DYNAMIC, config.model.num_frames)["frames" if own == STATIC else "stilled"]
    batches = showing.batches(config, "test")
    observed = observe(model.module, showing, batches, device)
    verdict = judge(observed, run_dir.name, own, model.classes[own], batches.classes)
    return {
        "source": showing.source,
        "head": own,
        "showing": showing.name,
        "uar": verdict.scores.uar,
        "war": verdict.scores.war,
    }
