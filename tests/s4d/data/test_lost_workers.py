"""A file that ends decoding processes is treated like any unreadable one: named, counted, replaced, left out."""

from __future__ import annotations

import importlib
import logging
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from s4d.config import Config
from s4d.data import evaluation, loader
from s4d.data.batch import PackedBatch
from s4d.data.workers import in_order
from s4d.errors import DataError

HARMFUL = """
import os, signal
from s4d.data import current_file, decode_image

readable = decode_image._opened

def opened(path):
    if path.name in ("i05.jpg", "i19.jpg") and current_file.is_watched():
        os.kill(os.getpid(), signal.SIGSEGV)
    return readable(path)

class Harmful:
    def __init__(self, items):
        self.items = items

    def __getitem__(self, index):
        decode_image._opened = opened
        return self.items[index]
"""
LINE = "i{}.jpg: cannot decode: decoding ended the process (SIGSEGV)"


@pytest.fixture
def harmful(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Two images of the tree are harmful in worker processes, one of the train split and one of the test split."""
    (tmp_path / "harmful_items.py").write_text(HARMFUL)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "harmful_items", raising=False)
    module = importlib.import_module("harmful_items")
    for user in (loader, evaluation):
        monkeypatch.setattr(
            user, "in_order", lambda items, indices, workers: in_order(module.Harmful(items), indices, workers)
        )
    return module


def pixels(steps: list[list[PackedBatch]]) -> list[torch.Tensor]:
    return [group.pixels for step in steps for batch in step for group in batch.groups]


def test_training_goes_on_as_without_the_file(
    harmful: types.ModuleType,
    finetune_config: Callable[..., Config],
    media_tree: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = finetune_config(data={"workers": 2, "on_error": "skip"})
    lost = loader.build_batches(config, 0, 1)
    found = list(lost.steps(0))
    lost.close()
    assert any(LINE.format("05") in record.message for record in caplog.records if record.levelno == logging.WARNING)

    image = media_tree / "images/i05.jpg"
    content = image.read_bytes()
    image.write_bytes(b"")
    try:
        plain = loader.build_batches(finetune_config(data={"workers": 0, "on_error": "skip"}), 0, 1)
        expected = list(plain.steps(0))
    finally:
        image.write_bytes(content)
    assert plain.counters()["data/skipped/image"] > 0
    assert lost.counters() == plain.counters()
    assert len(found) == len(expected)
    assert all(map(torch.equal, pixels(found), pixels(expected)))


def test_training_stops_with_one_line_if_it_is_to_stop(
    harmful: types.ModuleType, finetune_config: Callable[..., Config]
) -> None:
    batches = loader.build_batches(finetune_config(data={"workers": 1}), 0, 1)
    with pytest.raises(DataError, match=LINE.format("05").replace("(", r"\(").replace(")", r"\)")):
        list(batches.steps(0))
    batches.close()


def test_an_evaluation_leaves_the_sample_out(harmful: types.ModuleType, finetune_config: Callable[..., Config]) -> None:
    config = finetune_config(data={"workers": 1, "on_error": "skip"}, evaluation={"batch_size": 1})
    batches = evaluation.build_evaluation(config, "test", "images", 0, 1)
    weights = {name: float(w) for batch in batches for name, w in zip(batch.sample_ids, batch.weights, strict=True)}
    assert batches.skipped == 1 and batches.refused is None
    assert {name for name, weight in weights.items() if weight == 1} == {"i17", "i18", "i20", "i21"}
