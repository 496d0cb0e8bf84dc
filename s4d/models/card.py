"""The model card: a README.md for people, made of what `config.json` and `env.json` hold and of nothing else."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import torch
from torch import Tensor

from s4d.models.description import Description

WHAT = {
    "finetune": "A classifier of facial expressions in pictures and clips: a vision transformer{experts}, with one "
    "head for each dataset that it was trained on.",
    "pretrain": "A vision transformer and its decoder, trained to reconstruct hidden parts of face images and videos.",
    "encoder": "The encoder of a vision transformer, taken from weights that were trained elsewhere.",
}
# Letters with a meaning in Markdown; those of HTML, which it may hold, are escaped by the template's environment.
MARKS = frozenset("\\`*_[]|#!")
LONGEST = 200


def model_card(
    described: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    name: str,
    environment: Mapping[str, Any] | None = None,
    transformers_class: str | None = None,
) -> str:
    """The text for a folder called `name`; `transformers_class` reads it where it was made for transformers.

    `environment` is the run's `env.json`. What neither of them says is called unknown.
    """
    known = Description.model_validate(dict(described))
    inputs = {head: recipe for head, recipe in known.inputs.items() if isinstance(recipe, Mapping)}
    modality_of = {head: str(inputs.get(head, {}).get("modality") or "") for head in known.classes}
    datasets = {head: known.data[head].dataset if head in known.data else None for head in known.classes}
    heads = known.metrics.sources if known.metrics is not None and known.stage == "finetune" else {}
    modalities = sorted({"video", *modality_of.values()} & {"image", "video"}) if known.classes else []
    values = dict(known)
    return (
        _environment()
        .get_template("card.md.j2")
        .render(
            **{**values, "inputs": inputs},
            name=name,
            folder=name,
            library="transformers" if transformers_class else "s4d",
            transformers_class=transformers_class,
            task="video-classification" if known.stage == "finetune" else "",
            what=WHAT.get(known.stage or "", "Weights of an unknown kind.").format(experts=_experts(known)),
            modalities=modalities,
            modality_of=modality_of,
            dataset_of=datasets,
            scores=heads,
            parameters=sum(tensor.numel() for tensor in tensors.values() if torch.is_floating_point(tensor)),
            environment=environment or {},
        )
    )


def _experts(known: Description) -> str:
    experts = known.architecture.get("experts")
    if not isinstance(experts, Mapping) or "num_experts" not in experts:
        return ""
    return f" with {experts['num_experts']} adapter experts in {len(experts.get('layers', ()))} of its blocks"


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.ChainableUndefined,
    )
    environment.filters |= {"plain": plain, "told": _told, "pairs": _pairs, "percent": _percent}
    return environment


def plain(value: object) -> str:
    """Text of a name from a file: one line, without meaning in Markdown."""
    text = "".join(f"\\{letter}" if letter in MARKS else letter for letter in str(value)[:LONGEST])
    return "".join(" " if unicodedata.category(letter)[0] == "C" else letter for letter in text)


def _told(value: object) -> str:
    return "unknown" if value is None or isinstance(value, jinja2.Undefined) else plain(value)


def _pairs(values: Mapping[str, float]) -> str:
    return ", ".join(f"{plain(name)} {value:.6g}" for name, value in values.items())


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2%}"
