"""The model alone out of a checkpoint of a run: its tensors, and a description that is true of just these."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from s4d.errors import DataError
from s4d.models.fit import refuse_misfit
from s4d.models.folder import AVERAGE_FILE, MODEL_FILE, read_config, read_object, read_tensor_file

ENVIRONMENT = "env.json"
# Scores of the averaged weights, which a run leaves when it has ended.
SCORES_OF_AVERAGE = "evaluation-ema.json"


def take_model(checkpoint: Path, weights: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and `config.json` of the weights `last`, `best` or `ema`; DataError where no average was kept."""
    described = read_config(checkpoint)
    refuse_misfit(checkpoint, described)
    tensors = read_tensor_file(checkpoint / MODEL_FILE)
    if weights == "ema":
        if not (checkpoint / AVERAGE_FILE).is_file():
            raise DataError(f"{checkpoint}: holds no {AVERAGE_FILE}: the run kept no moving average")
        tensors |= read_tensor_file(checkpoint / AVERAGE_FILE)
        described = _of_average(checkpoint, described)
    return tensors, {**described, "weights": weights}


def environment_of(checkpoint: Path) -> dict[str, Any]:
    """The `env.json` of the run that a checkpoint belongs to; empty where there is none."""
    path = checkpoint.parent.parent / ENVIRONMENT
    return read_object(path) if checkpoint.parent.name == "checkpoints" and path.is_file() else {}


def _of_average(checkpoint: Path, described: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint has the scores of its weights without averaging; a finished run has the others beside it."""
    metrics = described.get("metrics")
    rest = {key: value for key, value in described.items() if key != "metrics"}
    path = checkpoint.parent.parent / SCORES_OF_AVERAGE
    steps = (described.get("training") or {}).get("steps")
    if metrics is None or steps is None or metrics.get("step") != steps or not path.is_file():
        return rest
    sources = read_object(path).get("sources", {})
    if any(entry.get("split") != metrics["split"] for entry in sources.values()):
        return rest
    try:
        scores = {
            name: {
                "uar": entry["uar"],
                "war": entry["war"],
                "samples": sum(map(sum, entry["confusion"])),
                "unreadable": entry["unreadable"],
            }
            for name, entry in sources.items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: field 'sources': not the scores of a run: {error}") from error
    return {**rest, "metrics": {**metrics, "sources": scores}}
