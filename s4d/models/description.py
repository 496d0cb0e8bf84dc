"""What a model folder says about its weights: every key of `config.json`, its type and its meaning.

A key that is missing was not known when the folder was written, or is not known of weights from elsewhere. A key that
is not listed here is an error: nobody could say what it changes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from s4d.config_problems import WITH_VALUE, WORDING
from s4d.errors import DataError

FORMAT = 1
STAGES = ("pretrain", "finetune", "encoder")
# Of what a file holds and an error quotes.
SHOWN = 300


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class SourceLabels(_Part):
    """How the outputs of one head are numbered, and where that order was taken from."""

    index: dict[str, int] = Field(description="class name -> number of the output")
    stated_in: str = Field(description="what gave the order: the manifest, the run's configuration, a command line")
    dataset: str | None = Field(default=None, description="dataset by its manifest; null for imported weights")
    public_orders: list[str] = Field(default=[], description="public orders of that dataset that are this one")


class SourceData(_Part):
    """What one source gave to the training."""

    dataset: str = Field(description="dataset by its manifest")
    modality: str = Field(description="image or video")
    manifest_sha256: str = Field(description="fingerprint of the manifest's content; file and folder may move")
    split: str = Field(description="split of the manifest that was trained on")
    fold: int | None = Field(description="fold of the manifest that was trained on; null: it has none")
    samples: int = Field(description="training samples")


class SourceScores(_Part):
    """Scores of one head. A class without a sample has no recall and does not count in `uar`."""

    uar: float | None = Field(description="unweighted average recall")
    war: float | None = Field(description="weighted average recall, the accuracy")
    samples: int = Field(description="samples scored")
    unreadable: int = Field(description="samples left out because no view could be read")


class Views(_Part):
    """Views of one clip whose probabilities are averaged."""

    temporal: int = Field(description="windows over time")
    spatial: int = Field(description="crops of a frame")


class Metrics(_Part):
    """The last evaluation of these weights."""

    step: int | None = Field(default=None, description="optimizer steps behind the weights that were scored")
    protocol: str = Field(description="held-out, or release (selects on the test split)")
    split: str = Field(description="train, val or test")
    views: Views = Field(description="views of a clip")
    sources: dict[str, SourceScores] = Field(description="scores of each head")


class Training(_Part):
    """The run behind the weights, as far as a reader of a model card asks for it; the run's config.yaml has it all."""

    name: str = Field(description="what the run is called")
    mode: str | None = Field(description="single, multitask or moae; null for pre-training")
    recipe: str = Field(description="s4d, or release: the defaults that the run began from")
    seed: int = Field(description="of first weights, order and draws")
    steps: int = Field(description="optimizer steps of the whole run")
    views_per_step: dict[str, int] = Field(description="views of each source in one step")
    lr: float = Field(description="peak learning rate")
    weight_decay: float = Field(description="decoupled weight decay")
    ema: float | None = Field(description="decay of the moving average; null: none was kept")
    precision: str = Field(description="of weights and activations in a step; the weights kept are float32")
    init_from: str | None = Field(description="name of the run or folder of the first weights; null: random ones")


class Description(_Part):
    """Content of `config.json`."""

    format: Literal[1] | None = Field(default=None, description="of this list of keys; missing in older folders")
    stage: str | None = Field(default=None, description="pretrain, finetune, or encoder: an encoder alone")
    architecture: dict[str, Any] = Field(default={}, description="every dimension of the model")
    classes: dict[str, list[str]] = Field(default={}, description="class names of each head, in order of its outputs")
    labels: dict[str, SourceLabels] = Field(default={}, description="number of each class, and where the order is from")
    inputs: dict[str, dict[str, Any]] = Field(default={}, description="how each head's samples are shown to it")
    crop: dict[str, str] = Field(default={}, description="crop recipe of each source; empty: not cut by this project")
    data: dict[str, SourceData] = Field(default={}, description="what each source gave to the training")
    training: Training | None = Field(default=None, description="the run behind the weights")
    loss_weights: dict[str, float] = Field(default={}, description="weight of each modality's loss")
    class_priors: dict[str, list[float]] = Field(default={}, description="class shares, where logits were adjusted")
    step: int | None = Field(default=None, description="optimizer steps behind the weights")
    metrics: Metrics | None = Field(default=None, description="the last evaluation of these very weights")
    version: str | None = Field(default=None, description="of this project")
    commit: str | None = Field(default=None, description="of this project's source, where it ran from a checkout")
    source: str | None = Field(default=None, description="imported weights: name of the file or folder")
    form: str | None = Field(default=None, description="imported weights: the form they came in")
    weights: str | None = Field(default=None, description="consolidated weights: last, best or ema")

    @model_validator(mode="after")
    def _check_names(self) -> Description:
        for head, names in self.classes.items():
            if len(set(names)) != len(names) or "" in names:
                raise ValueError(f"field 'classes': head {head!r}: a name is empty or given twice")
            known = self.labels.get(head)
            if known is not None and known.index != {name: number for number, name in enumerate(names)}:
                raise ValueError(f"field 'labels': head {head!r}: its numbers are not those of field 'classes'")
        return self


def check_description(path: Path, values: dict[str, Any]) -> Description:
    """What a `config.json` says; DataError names the first key that is unknown, missing or of another type."""
    if "model_type" in values and "stage" not in values:
        kind = str(values["model_type"])[:SHOWN]
        raise DataError(f"{path}: field 'model_type': {kind!r}: a folder of transformers; `s4d checkpoint import` it")
    try:
        return Description.model_validate(values)
    except ValidationError as error:
        raise DataError(_one_line(path, error)) from error


def _one_line(path: Path, error: ValidationError) -> str:
    """The first problem, unknown keys first: they explain missing ones."""
    first = min(error.errors(include_url=False), key=lambda problem: problem["type"] != "extra_forbidden")
    if first["type"] == "value_error":
        return f"{path}: {str(first['ctx']['error'])[:SHOWN]}"
    field, *rest = (str(part)[:SHOWN] for part in first["loc"])
    where = f"{path}: field {field!r}" + (f": entry {'.'.join(rest)!r}" if rest else "")
    if first["type"] == "extra_forbidden":
        return f"{where}: not known to this version, which reads format {FORMAT}"
    if first["type"] == "literal_error":
        return f"{where}: expected {first['ctx']['expected']}, got {first['input']!r:.80}"
    text, given = WORDING.get(first["type"], first["msg"][0].lower() + first["msg"][1:]), repr(first["input"])
    told = first["type"] != "missing" and len(given) <= WITH_VALUE
    return f"{where}: {text}" + (f", got {given}" if told else "")
