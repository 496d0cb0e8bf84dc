from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_project import run_values, write_media

from s4d.analysis.correlation.agreement import Products, agreement
from s4d.analysis.correlation.gradient_batches import PairedBatches
from s4d.analysis.correlation.gradients import GradientTable, gradient_study, summarise, task_gradient
from s4d.analysis.correlation.parameter_kinds import Part, shared_part
from s4d.analysis.correlation.run_names import run_names
from s4d.config import load
from s4d.errors import DataError, UsageError
from s4d.models.folder import read_config
from s4d.tasks import restore_task
from s4d.tasks.finetune import FinetuneTask

MakeRun = Callable[..., Path]


def products_of(vectors: np.ndarray) -> Products:
    """Inner products of gradients (P, 4, d)."""
    sums = np.stack([vectors[:, :2].sum((0, 1)), vectors[:, 2:].sum((0, 1))])
    return Products(np.einsum("pid,pjd->pij", vectors, vectors), sums @ sums.T)


def test_agreement_by_hand() -> None:
    """One direction in common, plus noise of the same length that no two batches share."""
    noise = np.eye(9)[1:].reshape(2, 4, 9)
    signal = np.eye(9)[0]
    found = agreement(products_of(noise + signal * np.array([1, 1, -3, -3])[:, None]))
    assert found.cosine == pytest.approx(-3 / np.sqrt(2 * 10))
    assert (found.negative_share, found.batches) == (1.0, 4)
    assert found.deviation == pytest.approx(0, abs=1e-12)
    assert found.images == pytest.approx(1 / 2) and found.clips == pytest.approx(9 / 10)
    assert found.norm_ratio == pytest.approx(np.sqrt(10 / 2))
    assert found.corrected == pytest.approx(-1)


def test_share_of_negative_batches_and_their_spread() -> None:
    turned = np.array([[[1, 0], [1, 0], [0.6, 0.8], [-0.6, 0.8]], [[1, 0], [1, 0], [1, 0], [0, 1]]])
    found = agreement(products_of(turned))
    values = [0.6, -0.6, 1.0, 0.0]
    assert found.cosine == pytest.approx(np.mean(values))
    assert found.deviation == pytest.approx(np.std(values, ddof=1))
    assert found.negative_share == 0.25


def test_noise_alone_has_no_corrected_cosine() -> None:
    rng = np.random.default_rng(0)
    found = agreement(products_of(rng.normal(size=(4, 4, 200))))
    assert abs(found.images) < 0.1 and abs(found.clips) < 0.1 and np.isnan(found.corrected)
    signal = rng.normal(size=200)
    found = agreement(products_of(signal * np.array([1, 1, -1, -1])[:, None] + rng.normal(size=(4, 4, 200))))
    assert found.images == pytest.approx(0.5, abs=0.15) and found.cosine == pytest.approx(-0.5, abs=0.15)
    assert found.corrected == pytest.approx(-1, abs=0.15)


def test_no_gradient_is_not_a_cosine_of_zero() -> None:
    vectors = np.ones((2, 4, 3))
    vectors[:, 2:] = 0
    found = agreement(products_of(vectors))
    assert found.batches == 0 and found.images == pytest.approx(1)
    written = found.to_dict()
    assert [written[name] for name in ("cosine", "negative_share", "clips", "corrected", "norm_ratio")] == [None] * 5


def test_planted_agreement_and_conflict_by_layer_and_kind() -> None:
    rng = np.random.default_rng(0)
    signs = {
        "patch_embed.proj.weight": 1,
        "blocks.0.attn.qkv.weight": 1,
        "blocks.0.mlp.fc1.weight": -1,
        "blocks.10.attn.q_bias": -1,
        "blocks.10.norm1.weight": -1,
        "blocks.10.moae.fc1_weight": -1,
        "blocks.10.moae.router_weight": -1,
        "blocks.10.moae.noise_bias": -1,
        "head.clips.weight": 1,
    }
    table = GradientTable()
    values = {name: torch.from_numpy(rng.normal(size=(5, 2))) for name in signs}
    for _ in range(3):
        still, clip = values, {name: signs[name] * value for name, value in values.items()}
        table.add([still, still, clip, clip])
    found = summarise(40, table.products())
    assert {name: round(item.cosine, 9) for name, item in found.layers.items() if name != "block 0"} == {
        "embedding": 1,
        "block 10": -1,
    }
    assert list(found.layers) == ["embedding", "block 0", "block 10"]
    assert {name: round(item.cosine, 9) for name, item in found.kinds.items() if name in ("mlp", "experts")} == {
        "mlp": -1,
        "experts": -1,
    }
    assert found.parts[Part("block 0", "attention")].corrected == pytest.approx(1)
    assert found.parts[Part("block 10", "routers")].negative_share == 1
    assert -1 < found.layers["block 0"].cosine < 1 and -1 < found.shared.cosine < 1
    assert list(found.kinds) == ["attention", "mlp", "experts", "routers", "rest"]


def test_every_parameter_has_a_place(make_run: MakeRun) -> None:
    run = make_run("moae")
    task = task_of(run)
    parts = {name: shared_part(name) for name, _ in task.module.named_parameters()}
    assert {name for name, part in parts.items() if part is None} == {
        f"head.{source}.{end}" for source in ("stills", "clips") for end in ("weight", "bias")
    }
    assert parts["blocks.1.moae.fc2_bias"] == Part("block 1", "experts")
    assert parts["blocks.1.moae.noise_weight"] == Part("block 1", "routers")
    assert parts["fc_norm.weight"] == Part("final norm", "rest")


def task_of(run: Path) -> FinetuneTask:
    config = load(run / "config.yaml", ["model.moae.balance_weight=0"])
    task = restore_task(config, read_config(run / "checkpoints" / "step-00000005"), device=torch.device("cpu"))
    assert isinstance(task, FinetuneTask)
    return task


def test_a_gradient_is_that_of_one_task_alone(make_run: MakeRun) -> None:
    run = make_run("moae")
    task = task_of(run)
    batches = next(iter(PairedBatches(task.config, 1, 4)))
    sides = [("image", "stills", "clips")] * 2 + [("video", "clips", "stills")] * 2
    for batch, (modality, own, other) in zip(batches, sides, strict=True):
        assert [group.modality for group in batch.groups] == [modality]
        gradient = task_gradient(task, batch, modality)
        assert not gradient[f"head.{other}.weight"].any() and gradient[f"head.{own}.weight"].any()
        (head,) = [head for head in batch.heads if head.head == own]
        loss = -(head.targets * task.module(batch).logits[own].log_softmax(1)).sum() / len(batch.sample_ids)
        (wanted,) = torch.autograd.grad(loss, [task.module.get_parameter("blocks.0.attn.qkv.weight")])
        torch.testing.assert_close(gradient["blocks.0.attn.qkv.weight"], wanted)


@pytest.fixture(scope="module")
def more_media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty-three training images and seventeen training clips."""
    root = tmp_path_factory.mktemp("more-media")
    write_media(root, images=36, clips=20)
    return root


def test_batches_share_no_sample_and_no_training_seed(make_run: MakeRun, more_media: Path) -> None:
    data = run_values(more_media, more_media)["data"]
    runs = [
        make_run("first", seed=1, data=data),
        make_run("second", seed=2, data=data, batch={"per_step": {"stills": 8, "clips": 6}}),
    ]
    drawn = []
    for run in runs:
        batches = PairedBatches(load(run / "config.yaml", ["seed=0"]), 5, 4)
        # Seventeen clips make four batches of four.
        assert batches.pairs == 2 and batches.samples == {"stills": 4, "clips": 4}
        for places in ((0, 1), (2, 3)):
            ids = [name for pair in batches for place in places for name in pair[place].sample_ids]
            assert len(ids) == len(set(ids)) == 16
        drawn.append([batch for pair in batches for batch in pair])
    for first, second in zip(*drawn, strict=True):
        assert first.sample_ids == second.sample_ids
        assert torch.equal(first.groups[0].pixels, second.groups[0].pixels)
        assert torch.equal(first.noise_keys, second.noise_keys)


def test_weighted_sampling_and_small_sources(make_run: MakeRun) -> None:
    run = make_run("run")
    weighted = load(run / "config.yaml", ["data.sources.0.sampling=balanced", "batch.per_step.stills=8"])
    images, more_images, *_ = next(iter(PairedBatches(weighted, 1, 100)))
    assert not set(images.sample_ids) & set(more_images.sample_ids)
    # Seven clips make two batches of three; in pairs for mixup, of two.
    settings = load(run / "config.yaml")
    assert PairedBatches(settings, 4, 100).samples == {"stills": 4, "clips": 3}
    mixed = load(run / "config.yaml", ["data.mix.mixup_alpha=0.8"])
    assert PairedBatches(mixed, 4, 100).samples == {"stills": 4, "clips": 2}
    with pytest.raises(DataError, match=r"stills\.csv: 9 training samples do not make 2 batches of 2"):
        PairedBatches(mixed, 1, 1)


def test_study_of_two_runs(make_run: MakeRun, more_media: Path) -> None:
    data = run_values(more_media, more_media)["data"]
    runs = [
        make_run("vanilla", mode="multitask", steps=(5, 10), data=data),
        make_run("moae", steps=(5,), data=data),
    ]
    seen: list[tuple[int, int]] = []
    study = gradient_study(runs, batches=4, samples=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(number, 6) for number in range(1, 7)]
    vanilla, moae = study.runs
    assert (vanilla.run, vanilla.mode, moae.run, moae.mode) == ("vanilla", "multitask", "moae", "moae")
    assert [item.step for item in vanilla.checkpoints] == [5, 10]
    assert list(vanilla.checkpoints[0].kinds) == ["attention", "mlp", "rest"]
    assert list(moae.checkpoints[0].kinds) == ["attention", "mlp", "experts", "routers", "rest"]
    assert list(moae.checkpoints[0].layers) == ["embedding", "block 0", "block 1", "final norm"]
    assert vanilla.checkpoints[0].shared != vanilla.checkpoints[1].shared
    for item in (*vanilla.checkpoints, *moae.checkpoints):
        assert item.shared.batches == 4 and -1 <= item.shared.cosine <= 1
    assert json.loads(json.dumps(study.to_dict(), allow_nan=False))["runs"][1]["samples"] == {"stills": 3, "clips": 3}
    assert gradient_study(runs, batches=4, samples=3).to_dict() == study.to_dict()


def test_what_cannot_be_compared(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("run")
    with pytest.raises(UsageError, match="even number"):
        gradient_study([run], batches=3)
    with pytest.raises(UsageError, match="given twice"):
        gradient_study([run, run])
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("modality: video", "modality: image"))
    with pytest.raises(UsageError, match="no video source"):
        gradient_study([run])
    (run / "config.yaml").write_text(config)
    (run / "checkpoints" / "step-00000005" / "model.safetensors").rename(tmp_path / "gone")
    with pytest.raises(DataError, match="holds no checkpoint"):
        gradient_study([run])


def test_names_tell_runs_apart(tmp_path: Path) -> None:
    assert run_names([tmp_path / "a", tmp_path / "b"]) == ["a", "b"]
    assert run_names([tmp_path / "x" / "moae", tmp_path / "y" / "moae"]) == ["x/moae", "y/moae"]


@pytest.mark.parametrize("sign", [1, -1])
def test_tasks_at_odds_over_the_same_features_pull_apart(make_run: MakeRun, more_media: Path, sign: int) -> None:
    """Both heads must unlearn one class; the clips' head reads features as the images' head does, or reversed."""

    def one_head_for_both(task: FinetuneTask) -> None:
        drawn = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            for name, factor in (("stills", 0.05), ("clips", 0.05 * sign)):
                head = task.module.get_submodule(f"head.{name}")
                assert isinstance(head, torch.nn.Linear)
                head.weight.copy_(factor * drawn)
                head.bias.copy_(torch.tensor([4.0, 0.0, 0.0]))

    run = make_run("run", data=run_values(more_media, more_media)["data"], change=one_head_for_both)
    (found,) = gradient_study([run], batches=4, samples=4).runs[0].checkpoints
    assert sign * found.shared.cosine > 0.3 and sign * found.layers["block 1"].cosine > 0.3
    assert found.shared.negative_share == (sign < 0)
    assert found.shared.corrected == pytest.approx(sign, abs=0.3)
