from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from s4d.analysis.predictions import read_predictions
from s4d.errors import DataError
from s4d.tasks import collective
from s4d.tasks.evaluate import Evaluator, SourceResult, frame_scores
from s4d.tasks.finetune import FinetuneTask

EVALUATION = {"temporal_views": 2, "batch_size": 4, "frame_baseline": True}


@pytest.fixture
def task(task_of: Callable[..., FinetuneTask], manifests: Path) -> FinetuneTask:
    return task_of(manifests=manifests, evaluation=EVALUATION)


def run(task: FinetuneTask, rank: int = 0, world_size: int = 1) -> dict[str, SourceResult]:
    evaluator = Evaluator(task.config, rank=rank, world_size=world_size, device=torch.device("cpu"))
    return evaluator.evaluate(task.module, "test", frame_baseline=True)


def test_every_sample_counts_once(task: FinetuneTask) -> None:
    results = run(task)
    assert task.module.training
    assert {name: len(result.sample_ids) for name, result in results.items()} == {"faces": 10, "clips": 7}
    for result in results.values():
        assert result.scores.confusion.sum() == len(result.sample_ids) and result.unreadable == 0
        np.testing.assert_allclose(result.probabilities.sum(1), 1, rtol=1e-12)
        assert result.scores.absent == (result.scores.classes[-1],)
    assert results["clips"].frames is not None and len(results["clips"].frames.uar) == 4
    assert results["faces"].frames is None


def test_expert_counts(task: FinetuneTask) -> None:
    results = run(task)
    counts = results["clips"].expert_counts
    assert counts is not None and counts.shape == (2, 4, 4)
    # Two views of eight tokens with two choices each, for three, two, two and no clips of the classes.
    assert counts.sum(2).tolist() == [[96, 64, 64, 0]] * 2
    images = results["faces"].expert_counts
    assert images is not None and images.sum(2).tolist() == [[40, 40, 0]] * 2


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_change_nothing(task: FinetuneTask, monkeypatch: pytest.MonkeyPatch, world_size: int) -> None:
    """Ranks as threads whose sums meet at a barrier: padded rows must not count, and all ranks agree."""
    single = run(task)
    barrier, lock = threading.Barrier(world_size), threading.Lock()
    pending: list[torch.Tensor] = []

    def meet(values: torch.Tensor) -> torch.Tensor:
        with lock:
            pending.append(values)
        barrier.wait()
        total = torch.stack(pending).sum(0)
        if barrier.wait() == 0:
            pending.clear()
        barrier.wait()
        return total

    monkeypatch.setattr("s4d.tasks.evaluate.sum_over_ranks", meet)
    found: dict[int, dict[str, SourceResult]] = {}
    threads = [
        threading.Thread(target=lambda rank=rank: found.update({rank: run(task, rank, world_size)}))
        for rank in range(world_size)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    for rank in range(world_size):
        for name, result in found[rank].items():
            np.testing.assert_allclose(result.probabilities, single[name].probabilities, rtol=1e-10)
            np.testing.assert_allclose(result.logits, single[name].logits, rtol=1e-10)
            assert np.array_equal(result.scores.confusion, single[name].scores.confusion)
            assert np.array_equal(result.expert_counts, single[name].expert_counts)  # type: ignore[arg-type]
            assert result.sample_ids == single[name].sample_ids
            assert result.frames == single[name].frames


def test_files(task: FinetuneTask, tmp_path: Path) -> None:
    summary = task.finish(task.module, tmp_path, "last")
    task.finish(task.module, tmp_path, "ema")
    names = {"evaluation.json", "predictions.csv", "predictions.npz", "routing.json"}
    assert {path.name.replace("-ema", "") for path in tmp_path.iterdir()} == names
    assert len(list(tmp_path.iterdir())) == 2 * len(names)
    clips = json.loads((tmp_path / "evaluation.json").read_text())["sources"]["clips"]
    assert (clips["modality"], clips["samples"], clips["classes"]) == ("video", 7, ["p", "q", "r", "s"])
    assert clips["recall"][3] is None and clips["classes_without_samples"] == ["s"]
    assert summary["clips.uar"] == clips["uar"] and summary["clips.best_frame_uar"] == clips["best_frame_uar"]
    assert clips["best_frame_uar"] == max(*clips["frame_uar"], clips["most_confident_frame_uar"])
    with (tmp_path / "predictions.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    hits = [row["label"] == row["prediction"] for row in rows if row["source"] == "clips"]
    assert len(rows) == 17 and sum(hits) / 7 == pytest.approx(clips["war"])
    routing = json.loads((tmp_path / "routing.json").read_text())
    assert (routing["layers"], routing["top_k"]) == ([1, 2], 2)
    assert np.array(routing["sources"]["faces"]["counts"]).shape == (2, 3, 4)


def test_stored_logits_are_those_of_the_scores(task: FinetuneTask, tmp_path: Path) -> None:
    task.finish(task.module, tmp_path, "last")
    results, heads = run(task), read_predictions(tmp_path / "predictions.npz")
    assert list(heads) == list(results)
    for name, head in heads.items():
        result = results[name]
        assert (head.modality, head.split, head.classes) == (result.modality, "test", result.scores.classes)
        assert head.sample_ids == result.sample_ids and np.array_equal(head.labels, result.labels)
        assert head.logits.shape == (len(head.labels), 2 if name == "clips" else 1, len(head.classes))
        np.testing.assert_allclose(head.probabilities, result.probabilities, rtol=1e-5)
    # Two views of a clip that moves are two answers.
    clips = heads["clips"].logits
    assert not np.allclose(clips[:, 0], clips[:, 1])


def test_logits_that_are_not_finite_are_refused(task: FinetuneTask) -> None:
    with torch.no_grad():
        next(task.module.parameters()).fill_(float("nan"))
    with pytest.raises(DataError, match="source faces: sample 'faces00': the model's logits are not finite"):
        run(task)


def test_no_routing_without_experts(task_of: Callable[..., FinetuneTask], manifests: Path, tmp_path: Path) -> None:
    task = task_of(manifests=manifests, mode="multitask")
    task.finish(task.module, tmp_path, "last")
    assert not (tmp_path / "routing.json").exists()


def test_which_split_is_held_out(task_of: Callable[..., FinetuneTask], manifests: Path) -> None:
    plain = task_of(manifests=manifests)
    assert plain.evaluate(plain.module, "val") == {}
    release = task_of(manifests=manifests, evaluation={"protocol": "release"})
    found = release.evaluate(release.module, "val")
    assert set(found) == {"faces.uar", "faces.war", "clips.uar", "clips.war"}


def test_a_damaged_manifest_is_not_an_empty_split(
    task_of: Callable[..., FinetuneTask], manifests: Path, tmp_path: Path
) -> None:
    shutil.copytree(manifests, tmp_path / "copy")
    plain = task_of(manifests=tmp_path / "copy")
    (tmp_path / "copy" / "faces.csv").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"faces\.csv"):
        plain.evaluate(plain.module, "val")


def test_a_held_out_share_is_used(task_of: Callable[..., FinetuneTask], manifests: Path) -> None:
    task = task_of(manifests=manifests)
    data = task.config.data.model_copy(update={"val_share": 0.5})
    held = task_of(manifests=manifests, data=data.model_dump())
    assert "clips.uar" in held.evaluate(held.module, "val")


def test_unreadable_samples_are_left_out_and_counted(
    task_of: Callable[..., FinetuneTask], manifests: Path, tmp_path: Path
) -> None:
    import shutil

    broken = tmp_path / "media"
    shutil.copytree(manifests, broken)
    for name in ("faces", "clips"):
        text = (broken / f"{name}.csv").read_text().replace(str(manifests), str(broken))
        (broken / f"{name}.csv").write_text(text)
    (broken / "faces-3.png").write_bytes(b"")
    task = task_of(manifests=broken)
    data = task.config.data.model_copy(update={"on_error": "skip"})
    skipping = task_of(manifests=broken, data=data.model_dump())
    result = run(skipping)["faces"]
    assert (result.unreadable, len(result.sample_ids)) == (1, 9) and "faces03" not in result.sample_ids
    with pytest.raises(DataError, match=r"faces-3\.png"):
        run(task)


def test_frame_baseline_by_hand() -> None:
    """Three clips, two frame positions: position 0 gets the first right, position 1 the second and third."""
    views = np.array([[[0.9, 0.1], [0.4, 0.6]], [[0.6, 0.4], [0.1, 0.9]], [[0.2, 0.8], [0.7, 0.3]]])
    labels = np.array([0, 1, 0])
    result = frame_scores(views, labels, ("a", "b"))
    assert result.uar == (pytest.approx(0.25), pytest.approx(0.75))
    assert result.most_confident == pytest.approx(0.75) and result.best == pytest.approx(0.75)


def test_sums_without_other_ranks() -> None:
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    total = collective.sum_over_ranks(values)
    assert torch.equal(total, values) and not total.requires_grad and total is not values
    assert not collective.is_distributed()


def test_results_are_records(task: FinetuneTask) -> None:
    result = run(task)["faces"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.unreadable = 3  # type: ignore[misc]
