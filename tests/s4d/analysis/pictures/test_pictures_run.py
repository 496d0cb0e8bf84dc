"""From a run folder to pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from s4d.analysis.pictures import collect
from s4d.analysis.pictures.collect import choose, collect_pictures
from s4d.analysis.pictures.drawing.parts import picture_parts
from s4d.analysis.pictures.record import read_pictures
from s4d.cli import main
from s4d.config import load
from s4d.data.evaluation import build_evaluation
from s4d.errors import DataError, UsageError
from s4d.models.trained import load_trained

CPU = torch.device("cpu")


def test_choice_is_by_rule() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1])
    sureness = np.array([0.9, 0.7, 0.8, 0.6, 0.95, 0.95])
    # Samples 0 to 2 are right, 3 to 5 wrong; 4 and 5 are equally sure.
    probabilities = np.stack([sureness, 1 - sureness], axis=1)
    names = ["a", "b", "c", "d", "f", "e"]
    chosen = choose(labels, probabilities, names)
    assert chosen == [(0, "surest right"), (2, "median right"), (5, "surest wrong"), (4, "median wrong")]
    assert choose(labels[:1], probabilities[:1], names) == [(0, "only right")]
    assert choose(labels[3:5], probabilities[3:5], names[3:5]) == [(1, "surest wrong"), (0, "median wrong")]


def test_a_tiny_run_from_end_to_end(tiny_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    run = tiny_run()
    assert main(["analyze", "pictures", str(run), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    found = read_pictures(run / "pictures.npz")
    assert found is not None and found.checkpoint == "step-00000005" == document["checkpoint"]
    assert [source.name for source in found.sources] == ["stills (image)", "clips (video)"]
    for source in found.sources:
        assert source.samples == 3 and source.unreadable == 0
        assert np.allclose(source.relevance.sum((1, 2, 3)), 1, atol=1e-5)
        assert np.allclose(source.slice_probabilities.sum(2), 1, atol=1e-5)
        # Every patch of every slice chose once in each layer.
        slices = source.relevance.shape[1]
        assert (source.expert_counts.sum(-1) == 3 * slices).all()
        told = document["drawn"][source.source]
        assert [sample["sample_id"] for sample in told] == [sample.sample_id for sample in source.drawn]
    assert found.features is not None and len(found.features.points) == 6
    assert found.features.modalities.tolist() == [0, 0, 0, 1, 1, 1]
    assert document["features"] == pytest.approx(found.features.numbers)
    assert main(["report", str(run)]) == 0
    assert "Where attention rests" in (run / "report" / "index.html").read_text(encoding="utf-8")


def test_drawn_samples_and_the_map_belong_to_their_names(tiny_run: Callable[..., Path]) -> None:
    run = tiny_run()
    found = collect_pictures(run, samples=600, device=CPU)
    config = load(run / "config.yaml", ["evaluation.temporal_views=1", "evaluation.spatial_views=1"])
    trained = load_trained(run, device=CPU)
    classes: list[str] = []
    for source in found.sources:
        item = next(iter(build_evaluation(config, "test", source.source, 0, 1)))
        names = list(item.sample_ids)
        with torch.inference_mode():
            output = trained.module(item.batch)
        probabilities = output.logits[source.source].softmax(1).numpy()
        for number, sample in enumerate(source.drawn):
            row = names.index(sample.sample_id)
            assert np.array_equal(source.frames[number], item.batch.groups[0].pixels[row].numpy())
            assert np.allclose(source.probabilities[number], probabilities[row], atol=1e-5)
            assert sample.prediction == source.classes[probabilities[row].argmax()]
            assert sample.label == source.classes[int(item.labels[row])]
        classes += [source.classes[int(label)] for label in item.labels]
    assert found.features is not None
    assert [found.features.classes[label] for label in found.features.labels] == classes


def test_a_cap_on_the_map_is_kept_and_two_walks_agree(tiny_run: Callable[..., Path]) -> None:
    run = tiny_run(mode="multitask")
    first, second = (collect_pictures(run, samples=5, device=CPU) for _ in range(2))
    # Two of each source are too few for a map.
    assert first.features is None
    assert first.sources[0].layers == () and first.sources[0].expert_counts.shape == (0, 2, 2, 0)
    for one, other in zip(first.sources, second.sources, strict=True):
        assert one.drawn == other.drawn and np.array_equal(one.relevance, other.relevance)


def test_a_run_of_clips_alone(tiny_run: Callable[..., Path]) -> None:
    found = collect_pictures(tiny_run(mode="single", only="clips"), samples=600, device=CPU)
    assert [source.modality for source in found.sources] == ["video"]
    # Three samples are no map.
    assert found.features is None
    assert list(picture_parts(found)) == ["Where attention rests", "Classes over time"]


@pytest.mark.parametrize(("on_error", "expected"), [("skip", "read once, but not again"), ("error", "clips/")])
def test_a_file_that_goes_while_it_is_drawn(
    tiny_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, on_error: str, expected: str
) -> None:
    run = tiny_run(only="clips")
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("on_error: error", f"on_error: {on_error}"))

    def walk_and_damage(*given: Any) -> collect.Walk:
        walk = walk_source(*given)
        for row in walk.source.rows:
            for frame in (walk.source.root / row.path).iterdir():
                frame.write_bytes(b"gone")
        return walk

    walk_source = collect.walk_source
    monkeypatch.setattr(collect, "walk_source", walk_and_damage)
    with pytest.raises(DataError, match=expected):
        collect_pictures(run, samples=600, device=CPU)


def test_what_cannot_be_pictured_is_said(tiny_run: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a pretrain run has no classes"):
        collect_pictures(tiny_run("masked", task="pretrain"), samples=600, device=CPU)
    run = tiny_run()
    table = tmp_path / "clips.csv"
    table.write_text(table.read_text().replace("happy", "anger"))
    with pytest.raises(DataError, match=r"clips\.csv: classes of source clips: expected those of .*step-00000005"):
        collect_pictures(run, samples=600, device=CPU)
