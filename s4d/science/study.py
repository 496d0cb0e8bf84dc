"""A few numbers of the correlation study of a size's runs, for docs/experiments.md: the rest is in its document."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from s4d.errors import DataError

COLUMNS = ("quantity", "run", "value")


def study_path(results: Path) -> Path:
    """Where the study of a size is kept beside its results."""
    return results / "study" / "correlation.json"


def study_rows(path: Path) -> list[tuple[str, str, str]]:
    """Cells of `COLUMNS`; DataError for a file that is no document of `s4d analyze correlation`."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return [row for part in PARTS for row in part(document)]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(f"{path}: no document of `s4d analyze correlation`: {error!r}") from error


def _transfer(document: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    static, dynamic = document["static"]["head"], document["dynamic"]["head"]
    named = {
        (dynamic, "clips", "mean"): "UAR of clips, dynamic head",
        (static, "frames", "mean"): "UAR of clips, static head, mean over frames",
        (static, "frames", "most confident"): "UAR of clips, static head, surest frame",
        (static, "images", "mean"): "UAR of stills, static head",
        (dynamic, "stilled", "mean"): "UAR of stills held for a clip's length, dynamic head",
    }
    verdicts = document["transfer"]["verdicts"]
    for key, title in named.items():
        for verdict in verdicts:
            if (verdict["head"], verdict["showing"], verdict["chosen"]) == key:
                yield title, verdict["run"], f"{verdict['uar']:.3f}"


def _representation(document: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    representation, run = document["representation"], document["runs"][0]["run"]
    found = representation["centroids"]
    value = f"{found['diagonal']:.2f} against {found['off_diagonal']:.2f} (p = {found['p_value']:.4f})"
    yield "cosine of a class's centroids in stills and clips, against other classes'", run, value
    for pair in (*representation["cka_between_modalities"], *representation["cka_between_runs"]):
        first, second = pair["first"].removeprefix(f"{run}: "), pair["second"].removeprefix(f"{run}: ")
        if first in ("images", "clips"):
            yield f"CKA of {first} and {second}, layer by layer", run, ", ".join(f"{x:.2f}" for x in pair["by_layer"])


def _gradients(document: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for run in document["gradients"]["runs"]:
        shared = [checkpoint["shared"] for checkpoint in run["checkpoints"]]
        yield "cosine of SFER and DFER gradients, over checkpoints", run["run"], _range(shared, "cosine")
        yield "the same of two batches of stills", run["run"], _range(shared, "images")
        yield "the same of two batches of clips", run["run"], _range(shared, "clips")


def _routing(document: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for run in document["routing"]["runs"]:
        for layer in run["layers"]:
            distance = layer["distance"]
            told = f"{distance['value']:.3f} ({distance['low']:.3f} to {distance['high']:.3f})"
            value = f"{told}; by chance {distance['by_chance']:.3f}; overlap {layer['overlap']:.2f}"
            title = f"Jensen-Shannon distance of the tasks' routing, layer {layer['layer']}"
            yield title, run["run"], f"{value}; dead experts: {len(layer['dead'])}"


def _labels(document: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    run, labels = document["runs"][0]["run"], document["labels"]
    found = labels["tables"]["images"]
    value = f"{found['off_diagonal']['pearson']:.2f} (p = {found['off_diagonal_p_value']['pearson']:.4f})"
    yield "correlation of both heads' confusions, stills against clips, beside the diagonal", run, value
    found = labels["clips"]["pearson"]
    others = found["mean_with_another_clip_of_the_class"], found["mean_with_any_other_clip"]
    value = f"{found['mean']['value']:.2f} against {others[0]:.2f} and {others[1]:.2f}"
    yield "correlation of both heads' answers on a clip, against another clip of its class and any", run, value


def _range(found: list[Mapping[str, Any]], name: str) -> str:
    values = [entry[name] for entry in found]
    return f"{min(values):+.2f} to {max(values):+.2f}"


PARTS = (_transfer, _representation, _gradients, _routing, _labels)
