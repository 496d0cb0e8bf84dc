"""What an evaluation leaves in the run folder: scores, predictions and expert loads."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from s4d.analysis.predictions import Predictions, predictions_npz
from s4d.atomic_files import write_atomically
from s4d.json_text import to_json
from s4d.models.sizes import MoaeArchitecture
from s4d.statistics import ScoreIntervals, brier_score, expected_calibration_error, score_intervals
from s4d.tasks.evaluate import SourceResult


def write_evaluation(
    results: Mapping[str, SourceResult], experts: MoaeArchitecture | None, run_dir: Path, suffix: str = ""
) -> None:
    """Write predictions{suffix}.csv and .npz, with experts routing{suffix}.json, and last evaluation{suffix}.json."""
    write_atomically(run_dir / f"predictions{suffix}.csv", predictions_csv(results))
    write_atomically(run_dir / f"predictions{suffix}.npz", predictions_npz(map(stored, results.values())))
    if experts is not None:
        write_atomically(run_dir / f"routing{suffix}.json", to_json(routing_document(results, experts)))
    write_atomically(run_dir / f"evaluation{suffix}.json", to_json(evaluation_document(results)))


def stored(result: SourceResult) -> Predictions:
    """What predictions.npz keeps of a source: the logits of every view in float32."""
    return Predictions(
        source=result.source,
        modality=result.modality,
        split=result.split,
        classes=result.scores.classes,
        sample_ids=result.sample_ids,
        labels=result.labels,
        logits=result.logits.astype(np.float32),
    )


def evaluation_document(results: Mapping[str, SourceResult]) -> dict[str, Any]:
    """`sources`: for each source its modality, split, scores, classes, recalls, confusion matrix and frame baseline.

    `intervals` are 95 % bootstrap intervals, `ece` is the expected calibration error, `brier` the Brier score.
    """
    sources = {}
    for name, result in results.items():
        entry = {"modality": result.modality, "split": result.split, **result.scores.to_dict()}
        entry["ece"] = expected_calibration_error(result.probabilities, result.labels)
        entry["brier"] = brier_score(result.probabilities, result.labels)
        entry["intervals"] = intervals(result).to_dict(result.scores.classes)
        entry["unreadable"] = result.unreadable
        if result.frames is not None:
            entry["best_frame_uar"] = result.frames.best
            entry["frame_uar"] = list(result.frames.uar)
            entry["most_confident_frame_uar"] = result.frames.most_confident
        sources[name] = entry
    return {"sources": sources}


def intervals(result: SourceResult) -> ScoreIntervals:
    """UAR, WAR and recalls with the range they would take on other test samples of the same classes."""
    return score_intervals(result.labels, result.probabilities.argmax(1), len(result.scores.classes))


def routing_document(results: Mapping[str, SourceResult], experts: MoaeArchitecture) -> dict[str, Any]:
    """`sources`: for each source `counts` [layer][class][expert] of token choices on its evaluated split."""
    sources = {
        name: {
            "modality": result.modality,
            "classes": list(result.scores.classes),
            "counts": result.expert_counts.tolist(),
        }
        for name, result in results.items()
        if result.expert_counts is not None
    }
    return {
        "layers": list(experts.layers),
        "num_experts": experts.num_experts,
        "top_k": experts.top_k,
        "sources": sources,
    }


def predictions_csv(results: Mapping[str, SourceResult]) -> str:
    """One line per sample: source, sample id, true and predicted class name, probability of the predicted class."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("source", "sample_id", "label", "prediction", "probability"))
    for name, result in results.items():
        classes = result.scores.classes
        for sample, label, row in zip(result.sample_ids, result.labels, result.probabilities, strict=True):
            best = int(row.argmax())
            writer.writerow((name, sample, classes[label], classes[best], f"{row[best]:.6f}"))
    return text.getvalue()
