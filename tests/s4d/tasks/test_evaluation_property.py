"""Scores agree with scikit-learn, and do not depend on how samples, padding and unreadable files fall on ranks."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, balanced_accuracy_score, precision_recall_fscore_support
from torch import nn

from s4d.data.evaluation import EvalPlan
from s4d.metrics import scores
from s4d.models.classifier import ClassifierOutput
from s4d.tasks.evaluate import Evaluator, SourceResult

SETS = 1000
SHARED_SETS = 60


def label_set(seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[str, ...]]:
    """Labels and predictions of 1 to 80 samples of 2 to 11 classes, of which any number has no sample."""
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(2, 12))
    present = rng.choice(classes, int(rng.integers(1, classes + 1)), replace=False)
    labels = rng.choice(present, int(rng.integers(1, 81)))
    guesses = rng.integers(0, classes, len(labels))
    predictions = np.where(rng.random(len(labels)) < rng.random(), labels, guesses)
    return labels, predictions, tuple(f"class{number}" for number in range(classes))


def test_a_thousand_label_sets_against_scikit_learn() -> None:
    absent = 0
    for seed in range(SETS):
        labels, predictions, names = label_set(seed)
        ours = scores(labels, predictions, names)
        _, recall, f1, support = precision_recall_fscore_support(
            labels, predictions, labels=range(len(names)), zero_division=0
        )
        has = support > 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = balanced_accuracy_score(labels, predictions)
        assert ours.uar == pytest.approx(expected, rel=1e-12), seed
        assert ours.uar == pytest.approx(recall[has].mean(), rel=1e-12), seed
        assert ours.war == ours.micro_f1 == pytest.approx(accuracy_score(labels, predictions), rel=1e-12), seed
        assert ours.macro_f1 == pytest.approx(f1[has].mean(), rel=1e-12), seed
        assert ours.weighted_f1 == pytest.approx((f1 * support).sum() / support.sum(), rel=1e-12), seed
        assert [value for value in ours.recall if value is not None] == pytest.approx(list(recall[has])), seed
        assert ours.absent == tuple(name for name, there in zip(names, has, strict=True) if not there)
        assert ours.to_dict()["num_classes_without_samples"] == int((~has).sum())
        absent += not has.all()
    assert SETS / 4 < absent < SETS


class Batches:
    """Evaluation batches whose logits are known; padding and unreadable samples have NaN, which must not count."""

    refused = None

    def __init__(self, logits: NDArray[np.float64], unreadable: set[int], plan: EvalPlan, source: Any) -> None:
        self.logits, self.unreadable, self.plan, self.source = logits, unreadable, plan, source
        self.views = [0] * logits.shape[1]
        self.classes = source.classes

    def __iter__(self) -> Iterator[Any]:
        views = len(self.views)
        for number in range(self.plan.forwards):
            samples = [sample for sample in self.plan.forward(number) for _ in range(views)]
            real = torch.tensor([sample >= 0 and sample not in self.unreadable for sample in samples])
            places = torch.arange(views).repeat(len(samples) // views)
            rows = torch.from_numpy(self.logits)[torch.tensor(samples), places]
            rows[~real] = torch.nan
            yield SimpleNamespace(
                batch=rows, samples=torch.tensor(samples), views=places, weights=real.float(), labels=None
            )


class Echo(nn.Module):
    def forward(self, batch: torch.Tensor) -> ClassifierOutput:
        return ClassifierOutput({"clips": batch}, batch, ())


class Ranks:
    """Sums that meet at a barrier."""

    def __init__(self, count: int) -> None:
        self.barrier, self.lock = threading.Barrier(count, timeout=30), threading.Lock()
        self.pending: list[torch.Tensor] = []

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        with self.lock:
            self.pending.append(values)
        self.barrier.wait()
        total = torch.stack(self.pending).sum(0)
        if self.barrier.wait() == 0:
            self.pending.clear()
        self.barrier.wait()
        return total


def evaluated(seed: int, world_size: int, monkeypatch: pytest.MonkeyPatch) -> list[SourceResult]:
    """The result on every rank of one set of random logits."""
    rng = np.random.default_rng(seed)
    labels, _, names = label_set(seed)
    views = int(rng.integers(1, 4))
    logits = rng.normal(size=(len(labels), views, len(names))) * 3
    unreadable = set(rng.choice(len(labels), len(labels) // 10, replace=False).tolist())
    rows = [SimpleNamespace(sample_id=f"s{number}") for number in range(len(labels))]
    config = SimpleNamespace(name="clips", modality="video", manifest="clips.csv")
    source = SimpleNamespace(labels=labels.tolist(), rows=rows, classes=names, config=config)
    per_forward = int(rng.integers(1, 9))

    def build(config: Any, split: str, name: str, rank: int, world_size: int) -> Batches:
        plan = EvalPlan(samples=len(labels), rank=rank, world_size=world_size, per_forward=per_forward)
        return Batches(logits, unreadable, plan, source)

    ranks = Ranks(world_size)
    monkeypatch.setattr("s4d.tasks.evaluate.sum_over_ranks", ranks.sum)
    monkeypatch.setattr("s4d.tasks.evaluate.build_evaluation", lambda *values, frame_order: build(*values))
    run: Any = SimpleNamespace(data=SimpleNamespace(sources=[config]))
    found: dict[int, SourceResult] = {}

    def evaluate(rank: int) -> None:
        evaluator = Evaluator(run, rank=rank, world_size=world_size, device=torch.device("cpu"))
        found[rank] = evaluator.evaluate(Echo(), "test")["clips"]

    threads = [threading.Thread(target=evaluate, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    shares = np.exp(logits - logits.max(2, keepdims=True))
    shares = (shares / shares.sum(2, keepdims=True)).mean(1)
    kept = [number for number in range(len(labels)) if number not in unreadable]
    np.testing.assert_allclose(found[0].probabilities, shares[kept], rtol=1e-12)
    expected = scores(labels[kept], shares[kept].argmax(1), names)
    assert (found[0].scores.uar, found[0].unreadable) == (expected.uar, len(unreadable))
    return [found[rank] for rank in range(world_size)]


def test_uneven_ranks_give_the_bits_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(SHARED_SETS):
        (alone,) = evaluated(seed, 1, monkeypatch)
        for result in evaluated(seed, 2, monkeypatch) + evaluated(seed, 3, monkeypatch):
            assert np.array_equal(result.probabilities, alone.probabilities), seed
            assert np.array_equal(result.logits, alone.logits), seed
            assert np.array_equal(result.scores.confusion, alone.scores.confusion), seed
            assert (result.sample_ids, result.unreadable) == (alone.sample_ids, alone.unreadable), seed
