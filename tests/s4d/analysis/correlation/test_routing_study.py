from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from s4d.analysis.correlation.routing import RunRouting, routing_study, run_routing
from s4d.analysis.correlation.routing_numbers import (
    class_information,
    entropy,
    jensen_shannon,
    lift,
    overlap,
    routing_distance,
)
from s4d.analysis.correlation.routing_pass import Choices, chosen_together, collect_choices
from s4d.config import load
from s4d.data.evaluation import build_evaluation
from s4d.errors import UsageError
from s4d.models.moae import RoutingTerms
from s4d.models.trained import load_trained
from s4d.tasks.evaluate import Evaluator
from s4d.tasks.finetune import FinetuneTask

CLASSES = ("happy", "sad", "fear")
TOKENS = 40


def choices_of(
    probabilities: np.ndarray, modality: str, *, samples: int = 60, seed: int = 0, tokens: int = TOKENS
) -> Choices:
    """One layer, one choice a token: tokens of samples of class k drawn from `probabilities` (K, E)."""
    rng = np.random.default_rng(seed)
    labels = np.arange(samples) % len(probabilities)
    experts = probabilities.shape[1]
    return Choices(
        source=f"made-up-{modality}",
        modality=modality,
        classes=CLASSES[: len(probabilities)],
        labels=labels,
        counts=np.stack([rng.multinomial(tokens, probabilities[label]) for label in labels])[:, None],
        pairs=np.zeros((1, experts, experts), dtype=np.int64),
        unreadable=0,
    )


def study_of(images: np.ndarray, clips: np.ndarray, **changes: float) -> RunRouting:
    pair = [choices_of(images, "image", seed=1), choices_of(clips, "video", seed=2)]
    return run_routing("made-up", (3,), 1, pair, draws=200, **changes)


def test_distances_by_hand() -> None:
    first, second = np.array([0.5, 0.5, 0.0]), np.array([0.0, 0.5, 0.5])
    # Entropy of (1/4, 1/2, 1/4) is 1.5 bits, of each part 1 bit.
    assert jensen_shannon(first, second) == pytest.approx(np.sqrt(0.5))
    assert jensen_shannon(first, first) == 0 and overlap(first, second) == 0.5
    assert jensen_shannon(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 1
    assert entropy(np.array([[0.25] * 4, [1.0, 0, 0, 0]])).tolist() == [2.0, 0.0]
    rng = np.random.default_rng(0)
    for pair in rng.dirichlet(np.ones(8), size=(20, 2)):
        assert jensen_shannon(*pair) == pytest.approx(jensenshannon(*pair, base=2), abs=1e-9)


def test_a_router_specialised_by_modality() -> None:
    layer = study_of(np.array([[0.5, 0.5, 0, 0]] * 3), np.array([[0, 0, 0.5, 0.5]] * 3)).layers[0]
    assert layer.distance is not None and layer.class_matched is not None
    assert layer.distance.value == pytest.approx(1) and layer.overlap == 0
    assert layer.distance.low > layer.distance.by_chance and layer.distance.p_value == pytest.approx(1 / 201)
    assert layer.dead == () and layer.class_matched.value == pytest.approx(1)


def test_equal_routing_is_not_read_as_specialisation() -> None:
    even = np.array([[0.4, 0.3, 0.2, 0.1]] * 3)
    for seed in range(5):
        pair = [choices_of(even, "image", seed=seed, samples=30), choices_of(even, "video", seed=100 + seed)]
        layer = run_routing("equal", (0,), 1, pair, draws=200).layers[0]
        assert layer.distance is not None
        assert 0 < layer.distance.value < 0.05 and layer.distance.low < 0.02
        if layer.distance.value < layer.distance.by_chance:
            return
    pytest.fail("equal routing was beyond the 95th percentile of chance five times in a row")


def test_chance_is_exceeded_as_often_as_stated() -> None:
    rng = np.random.default_rng(4)
    values = []
    for _ in range(60):
        shares = rng.multinomial(20, [0.4, 0.3, 0.2, 0.1], size=40)[:, None] / 20
        values.append(routing_distance([shares[:15]], [shares[15:]], draws=40, seed=0)[0].p_value)
    assert np.mean(np.array(values) <= 0.1) < 0.2 and 0.4 < np.mean(values) < 0.6


def test_class_mixture_is_not_a_difference_of_modalities() -> None:
    """Routing by class alone; the images are nearly all of one class, the clips of the other."""
    by_class = np.array([[0.8, 0.2], [0.2, 0.8]])
    images = choices_of(by_class, "image", samples=200, seed=1)
    clips = choices_of(by_class, "video", samples=200, seed=2)
    mostly_first = np.flatnonzero((images.labels == 0) | (np.arange(200) < 40))
    mostly_second = np.flatnonzero((clips.labels == 1) | (np.arange(200) < 40))

    def only(choices: Choices, rows: np.ndarray) -> Choices:
        fields = {name: getattr(choices, name) for name in choices.__slots__}
        return Choices(**fields | {"labels": choices.labels[rows], "counts": choices.counts[rows]})

    layer = run_routing("mixture", (0,), 1, [only(images, mostly_first), only(clips, mostly_second)], draws=200).layers[
        0
    ]
    assert layer.distance is not None and layer.class_matched is not None
    assert layer.distance.value > 0.2 and layer.distance.p_value < 0.01
    assert layer.class_matched.value < 0.05 and layer.class_matched.p_value > 0.01


def test_a_planted_dead_expert_is_found() -> None:
    images, clips = np.array([[0.6, 0.39, 0.01, 0.0]] * 3), np.array([[0.3, 0.3, 0.4, 0.0]] * 3)
    assert study_of(images, clips).layers[0].dead == (3,)
    # Expert 2 serves clips, so it lives, however little the images use it.
    assert study_of(images, clips, dead_share=0.05).layers[0].dead == (3,)


def test_one_modality_has_nothing_to_be_compared_with() -> None:
    found = run_routing("alone", (0,), 1, [choices_of(np.array([[0.5, 0.5]] * 3), "video")], draws=20)
    assert found.layers[0].distance is None and found.layers[0].overlap is None and found.class_distance == {}
    assert json.dumps(found.to_dict(), allow_nan=False)


def test_what_experts_tell_of_the_class() -> None:
    def told(probabilities: np.ndarray) -> tuple[float, float]:
        choices = choices_of(probabilities, "image", samples=90)
        (found,) = class_information(choices.shares, choices.labels, len(probabilities), draws=200, seed=0)
        return found.adjusted, found.p_value

    adjusted, p_value = told(np.eye(3))
    assert adjusted == pytest.approx(1) and p_value == pytest.approx(1 / 201)
    adjusted, p_value = told(np.array([[0.5, 0.3, 0.2]] * 3))
    assert abs(adjusted) < 0.01 and p_value > 0.01
    # One class has an expert to itself, the others share one: the expert is known from the class.
    assert told(np.array([[1.0, 0], [0, 1], [0, 1]]))[0] == pytest.approx(1)
    shares = np.array([[0.75, 0.25], [0.25, 0.75]])[:, None]
    (found,) = class_information(shares, np.array([0, 1]), 2, draws=10, seed=0)
    assert found.bits == pytest.approx(1 - entropy(np.array([0.75, 0.25])))
    assert np.isnan(class_information(shares, np.array([0, 0]), 1, draws=10, seed=0)[0].adjusted)


def pair_table(tokens: np.ndarray, experts: int) -> np.ndarray:
    table = np.zeros((experts, experts), dtype=np.int64)
    for first, second in tokens:
        table[first, second] += 1
        table[second, first] += 1
    return table


def test_lift_of_independent_choices_is_one() -> None:
    """Two different experts drawn by weight, kept only if they differ, is independence without repetition."""
    rng = np.random.default_rng(0)
    drawn = rng.choice(4, size=(400_000, 2), p=[0.4, 0.3, 0.2, 0.1])
    found = lift(pair_table(drawn[drawn[:, 0] != drawn[:, 1]], 4))
    assert np.isnan(np.diag(found)).all()
    assert np.nanmax(np.abs(found - 1)) < 0.03


def test_lift_of_a_pair_that_is_always_together() -> None:
    found = lift(pair_table(np.array([[0, 1]] * 300 + [[2, 3]] * 300), 4))
    # All experts are chosen equally often, so that each of six pairs would have 100 of the 600 tokens.
    assert found[0, 1] == found[1, 0] == pytest.approx(3) and found[2, 3] == pytest.approx(3)
    assert found[0, 2] == found[1, 3] == 0
    assert np.isnan(lift(pair_table(np.array([[0, 1]] * 3), 3))).all()
    assert np.isnan(lift(np.zeros((3, 3), dtype=np.int64))).all()


def test_pairs_are_counted_for_real_samples_alone() -> None:
    ids = torch.tensor([[0, 1], [0, 2], [1, 2], [1, 2], [0, 1], [0, 1]])
    empty = torch.zeros(0)
    terms = RoutingTerms(ids, empty, torch.zeros(6, 4), empty, empty)
    found = chosen_together(terms, ((3, 2),), torch.tensor([True, True, False]))
    assert found.tolist() == [[0, 1, 1, 0], [1, 0, 2, 0], [1, 2, 0, 0], [0, 0, 0, 0]]


def test_the_pass_counts_as_evaluation_does(make_run: Callable[..., Path]) -> None:
    run = make_run("moae")
    config, model = load(run / "config.yaml"), load_trained(run, device="cpu")
    results = Evaluator(config, rank=0, world_size=1, device=torch.device("cpu")).evaluate(model.module, "test")
    for source in ("stills", "clips"):
        batches = build_evaluation(config, "test", source, 0, 1)
        found = collect_choices(model.module, batches, torch.device("cpu"))
        assert found.counts.shape == (3, 1, 4) and sorted(found.labels) == [0, 1, 2]
        expected = results[source].expert_counts
        assert expected is not None
        by_class = found.counts[np.argsort(found.labels)]
        assert np.array_equal(by_class.transpose(1, 0, 2), expected)
        # Every token chooses two experts, so that it is in one pair, which the table has twice.
        assert found.pairs.sum() == found.counts.sum()


def kill_expert(task: FinetuneTask) -> None:
    """No token may choose expert 2."""
    moae = task.module.get_submodule("blocks.1.moae")
    with torch.no_grad():
        moae.router_bias[2] = -1e4


def test_study_of_a_run(make_run: Callable[..., Path]) -> None:
    run = make_run("moae", change=kill_expert)
    seen: list[tuple[str, int, int]] = []
    study = routing_study([run], draws=20, progress=lambda *what: seen.append(what))
    assert seen == [("moae: stills", 1, 1), ("moae: clips", 1, 1)]
    (found,) = study.runs
    (layer,) = found.layers
    assert (layer.layer, layer.dead, found.top_k, found.num_experts) == (1, (2,), 2, 4)
    assert layer.usage["image"].sum() == pytest.approx(1) and layer.usage["video"][2] == 0
    assert set(found.class_distance) == {"happy", "sad", "fear"}
    assert [(source.source, source.samples) for source in found.sources] == [("stills", 3), ("clips", 3)]
    assert found.sources[0].usage.shape == (1, 3, 4)
    assert json.loads(json.dumps(study.to_dict(), allow_nan=False))["runs"][0]["layers"][0]["dead"] == [2]
    assert routing_study([run], draws=20).to_dict() == study.to_dict()


def test_a_run_without_experts_routes_nothing(make_run: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match="without experts"):
        routing_study([make_run("vanilla", mode="multitask")])
