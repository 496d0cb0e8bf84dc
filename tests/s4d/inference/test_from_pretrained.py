"""`S4D.from_pretrained` on every kind of folder that this project writes: the same model, whichever way it went."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from s4d.cli import main
from s4d.config import Config
from s4d.errors import DataError
from s4d.inference.model import S4D

CLASSES = ("sad", "glad", "angry", "calm")
FRAMES = np.random.default_rng(4).integers(0, 256, (12, 40, 48, 3), dtype=np.uint8)


@pytest.fixture
def trained(tmp_path: Path, config_of: Callable[..., Config], run_of: Callable[..., Path]) -> Path:
    """A run without experts, which transformers' VideoMAE does not have."""
    return run_of(config_of(tmp_path, mode="multitask"))


def made(*arguments: str | Path) -> None:
    assert main(["checkpoint", *map(str, arguments)]) == 0


def probabilities(folder: Path) -> Any:
    model = S4D.from_pretrained(folder, device="cpu")
    assert model.heads["clips"].classes == CLASSES
    return model.predict(FRAMES, source="clips").probabilities


def test_the_same_answer_from_every_folder_that_knows_its_input(trained: Path, tmp_path: Path) -> None:
    expected = probabilities(trained)
    made("consolidate", trained, tmp_path / "alone")
    made("export", tmp_path / "alone", "--to", "hf-videomae", "--head", "clips", "--out", tmp_path / "hf")
    checkpoint = trained / "checkpoints/step-00000004"
    for folder in (checkpoint, checkpoint / "model.safetensors", tmp_path / "alone", tmp_path / "hf"):
        assert np.array_equal(probabilities(folder), expected), folder
    assert list(S4D.from_pretrained(tmp_path / "hf", device="cpu").heads) == ["clips"]
    for folder in ("alone", "hf"):
        assert "## Limits" in (tmp_path / folder / "README.md").read_text()
    assert "library_name: transformers" in (tmp_path / "hf/README.md").read_text()


def test_the_same_weights_after_a_way_through_other_programs(trained: Path, tmp_path: Path) -> None:
    """A file of another program does not say what a head was shown: answers may differ, weights and classes do not."""
    weights = S4D.from_pretrained(trained, device="cpu").trained.module.state_dict()
    made("export", trained, "--to", "hf-videomae", "--out", tmp_path / "hf")
    names = ("--classes", f"clips={','.join(CLASSES)}")
    made("import", tmp_path / "hf", *names, "--out", tmp_path / "from-hf")
    found = S4D.from_pretrained(tmp_path / "from-hf", device="cpu")
    assert found.heads["clips"].classes == CLASSES and found.heads["clips"].recipe.modality == "video"
    state = found.trained.module.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in state.items())
    described = json.loads((tmp_path / "from-hf/config.json").read_text())
    assert described["labels"]["clips"]["stated_in"] == "the command line of the import"
    assert "Assumed: the file" in (tmp_path / "from-hf/README.md").read_text()
    assert found.predict(FRAMES, source="clips").label in CLASSES


def test_a_folder_of_transformers_alone_is_to_be_imported(trained: Path, tmp_path: Path) -> None:
    made("export", trained, "--to", "hf-videomae", "--out", tmp_path / "hf")
    path = tmp_path / "hf/config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "s4d": {**config["s4d"], "classes": {"clips": ["a", "b"]}}}))
    with pytest.raises(DataError, match="class"):
        S4D.from_pretrained(tmp_path / "hf", device="cpu")
    path.write_text(json.dumps({**config, "s4d": {**config["s4d"], "colour": 1}}))
    with pytest.raises(DataError, match=r"config\.json: field 'colour': not known"):
        S4D.from_pretrained(tmp_path / "hf", device="cpu")
    path.write_text(json.dumps({**config, "num_attention_heads": config["hidden_size"]}))
    with pytest.raises(DataError, match=r"config\.json: field 's4d\.architecture\.num_heads': .* transformers' fields"):
        S4D.from_pretrained(tmp_path / "hf", device="cpu")
    path.write_text(json.dumps({key: value for key, value in config.items() if key != "s4d"}))
    with pytest.raises(DataError, match=r"field 'model_type': 'videomae': a folder of transformers; `s4d checkpoint"):
        S4D.from_pretrained(tmp_path / "hf", device="cpu")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"temporal_views": 10**9}, r"field 'inputs\.clips': more than \d+ views"),
        ({"stride": 0}, r"field 'inputs\.clips': stride: expected a whole number"),
    ],
)
def test_an_input_that_nobody_could_show(trained: Path, tmp_path: Path, change: dict[str, int], words: str) -> None:
    made("consolidate", trained, tmp_path / "alone")
    path = tmp_path / "alone/config.json"
    described = json.loads(path.read_text())
    described["inputs"]["clips"] |= change
    path.write_text(json.dumps(described))
    (tmp_path / "alone/manifest.json").unlink()
    with pytest.raises(DataError, match=words):
        S4D.from_pretrained(tmp_path / "alone", device="cpu")
