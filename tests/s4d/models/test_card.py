"""The model card says what the files beside it say, and nothing else."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch
import yaml

from s4d.models.card import model_card

WEIGHTS = {"a": torch.zeros(3, 5), "table": torch.zeros(4, dtype=torch.int64)}
INPUT = {"modality": "video", "image_size": 96, "num_frames": 8, "stride": 4, "resize": "short_side"}
DESCRIBED: dict[str, Any] = {
    "stage": "finetune",
    "classes": {"clips": ["sad", "glad"]},
    "labels": {"clips": {"index": {"sad": 0, "glad": 1}, "stated_in": "the manifest", "dataset": "dfew"}},
    "inputs": {"clips": INPUT},
    "crop": {"clips": "eyes-96"},
    "data": {
        "clips": {
            "dataset": "dfew",
            "modality": "video",
            "manifest_sha256": "ab" * 32,
            "split": "train",
            "fold": 2,
            "samples": 1234,
        }
    },
    "version": "0.1.0",
    "commit": "cafe",
}
METRICS = {
    "step": 7,
    "protocol": "held-out",
    "split": "val",
    "views": {"temporal": 2, "spatial": 1},
    "sources": {"clips": {"uar": 0.54321, "war": None, "samples": 77, "unreadable": 3}},
}


def front_matter(card: str) -> dict[str, Any]:
    _, text, _ = card.split("---\n", 2)
    values: dict[str, Any] = yaml.safe_load(text)
    return values


def test_a_scored_classifier() -> None:
    card = model_card({**DESCRIBED, "metrics": METRICS}, WEIGHTS, name="mine")
    head = front_matter(card)
    assert (head["library_name"], head["pipeline_tag"], head["metrics"]) == (
        "s4d",
        "video-classification",
        ["recall", "accuracy"],
    )
    assert "license" not in head
    (result,) = head["model-index"][0]["results"]
    assert result["dataset"] == {"name": "dfew", "type": "dfew", "split": "val"}
    assert [(metric["type"], metric["value"]) for metric in result["metrics"]] == [("recall", 0.5432)]
    assert "| clips | 54.32% | unknown | 77 | 3 |" in card
    assert "Protocol `held-out`, split `val`, 2 x 1 views of a clip, weights after 7 steps." in card
    assert "| clips | dfew | video | train | 2 | 1234 | `abababababababab` |" in card
    assert "**clips** (video): 0 sad, 1 glad." in card and "recipe `eyes-96`" in card
    assert 'S4D.from_pretrained("mine")' in card and "| parameters | 15 |" in card and "`cafe`" in card


def test_what_is_not_known_is_said_to_be_unknown() -> None:
    card = model_card({"stage": "finetune", "classes": {"clips": ["sad", "glad"]}}, WEIGHTS, name="mine")
    for section in ("Data", "Training", "Scores"):
        assert re.search(rf"## {section}\n\nUnknown: ", card), section
    assert "Where this order comes from is unknown." in card and "images or videos: unknown" in card
    assert "metrics" not in front_matter(card) and "%" not in card
    assert {"| s4d | unknown |", "| commit | unknown |"} <= set(card.splitlines())
    # Nothing is counted but what the file and its classes hold.
    assert set(re.findall(r"\d+", card.replace("s4d", ""))) - {"4"} == {"0", "1", "15"}


@pytest.mark.parametrize("stage", ["pretrain", "encoder"])
def test_weights_without_heads_promise_no_classes(stage: str) -> None:
    card = model_card({"stage": stage}, WEIGHTS, name="mine")
    assert "## Classes" not in card and "## Scores" not in card and "predict" not in card
    assert "pipeline_tag" not in front_matter(card) and "model.init_from=mine" in card


def test_a_folder_for_transformers_says_how_it_is_loaded_there() -> None:
    card = model_card(DESCRIBED, WEIGHTS, name="mine", transformers_class="VideoMAEForVideoClassification")
    assert front_matter(card)["library_name"] == "transformers"
    assert 'VideoMAEForVideoClassification.from_pretrained("mine")' in card


def test_the_release_protocol_is_called_what_it_is() -> None:
    card = model_card({**DESCRIBED, "metrics": {**METRICS, "protocol": "release"}}, WEIGHTS, name="mine")
    assert "higher than on unseen data" in card


def test_names_are_no_markup() -> None:
    name = "<img src=x>|`a`\n# b [c](d) *e*"
    data = {"clips": {**DESCRIBED["data"]["clips"], "dataset": name}}
    changed = {**DESCRIBED, "classes": {"clips": [name, "glad"]}, "labels": {}, "data": data, "metrics": METRICS}
    card = model_card(json.loads(json.dumps(changed)), WEIGHTS, name="mine")
    body = card.split("---\n", 2)[2]
    assert "<img" not in card and "\n# b" not in body and "\\[c\\](d) \\*e\\*" in body and "[c](d)" not in body
    assert front_matter(card)["model-index"][0]["results"][0]["dataset"]["name"] == name
    assert "<img" not in model_card(DESCRIBED, WEIGHTS, name="<img>")
