"""A prediction is what an evaluation says of the same sample."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from s4d.analysis.predictions import read_predictions
from s4d.cli import main
from s4d.config import Config, load
from s4d.data.batch import PackedBatch
from s4d.data.evaluation import build_evaluation
from s4d.inference.clip import open_clip
from s4d.inference.model import S4D
from s4d.inference.packed_views import pack_views
from s4d.inference.views import stream_views
from s4d.models.trained import load_trained
from s4d.synth.recipe import Plan, render_clip
from s4d.tasks.evaluate import Evaluator

TOLERANCE = 1e-5
VARIANTS = {
    "released rule, squashed, crops at the sides": {
        "data": {"frame_sampling": "release", "video": {"resize": "square"}, "image": {"resize": "square"}},
        "evaluation": {"temporal_views": 2, "spatial_views": 3},
    },
    "one view, names sorted as text": {"data": {"order": "lexicographic"}, "evaluation": {"temporal_views": 1}},
    "router noise": {"model": {"moae": {"num_experts": 4, "zero_init": False, "router_noise": "always"}}, "seed": 5},
}


def compare(config: Config, run: Path, root: Path) -> None:
    model = S4D.from_pretrained(run, device="cpu")
    module = load_trained(run, device="cpu").module
    results = Evaluator(config, rank=0, world_size=1, device=torch.device("cpu")).evaluate(module, "test")
    for source, result in results.items():
        # Answers that do not depend on the input would agree too.
        assert np.ptp(result.probabilities, axis=0).max() > 1000 * TOLERANCE
        for sample, logits, expected in zip(result.sample_ids, result.logits, result.probabilities, strict=True):
            clip = open_clip(root / sample, name=sample, order=model.order)
            found = model.predict_clip(clip, model.head_for(clip))
            assert found.source == source and found.classes == result.scores.classes
            np.testing.assert_allclose(found.probabilities, expected, rtol=0, atol=TOLERANCE)
            assert found.probabilities.argmax() == expected.argmax()
            assert len(found.views) == len(logits)


def test_every_sample_as_evaluated(media: Path, run: Path) -> None:
    compare(load(run / "config.yaml"), run, media)


@pytest.mark.parametrize("name", VARIANTS)
def test_other_recipes(
    media: Path, tmp_path: Path, name: str, config_of: Callable[..., Config], run_of: Callable[..., Path]
) -> None:
    config = config_of(media, **VARIANTS[name]).model_copy(update={"run_dir": str(tmp_path / "run")})
    compare(config, run_of(config), media)


def test_batches_are_those_of_an_evaluation(media: Path, run: Path, model: S4D) -> None:
    """Pixels to the bit and every field that the model reads."""
    config = load(run / "config.yaml")
    for source in ("faces", "clips"):
        item = next(iter(build_evaluation(config, "test", source, 0, 1)))
        recipe = model.heads[source].recipe
        samples = dict.fromkeys(item.sample_ids)
        views, keys = [], []
        for sample in samples:
            clip = open_clip(media / sample, name=sample)
            draws = recipe.draws(sample, recipe.views, frame_count=clip.frame_count, size=clip.size)
            read = dict(stream_views(clip, draws, recipe.image_size, small_decode=recipe.small_decode))
            views += [read[place] for place in range(len(draws))]
            keys += [draw.noise_key for draw in draws]
        batch = pack_views(views, keys, modality=recipe.modality, arch=model.trained.arch, seed=recipe.seed)
        assert torch.equal(batch.groups[0].pixels, item.batch.groups[0].pixels)
        for field in PackedBatch.__dataclass_fields__:
            ours, theirs = getattr(batch, field), getattr(item.batch, field)
            if isinstance(theirs, torch.Tensor):
                assert torch.equal(ours, theirs), field
            elif field not in ("groups", "heads"):
                assert ours == theirs, field


def test_an_older_checkpoint_is_answered_for_by_its_run(media: Path, run: Path, model: S4D) -> None:
    trained = load_trained(run, device="cpu")
    older = {key: value for key, value in trained.described.items() if key != "inputs"}
    heads = S4D(type(trained)(**{**_fields(trained), "described": older})).heads
    assert heads == model.heads


def _fields(record: object) -> dict[str, object]:
    return {name: getattr(record, name) for name in type(record).__dataclass_fields__}  # type: ignore[attr-defined]


@pytest.mark.deep
def test_the_commands_agree_on_70_unseen_clips(
    tmp_path: Path,
    config_of: Callable[..., Config],
    run_of: Callable[..., Path],
    video_of: Callable[..., Path],
    save_rows: Callable[[Path, str, list[tuple[str, str, str]]], None],
    classes: dict[str, tuple[str, ...]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Generated faces as videos and as folders of frames: `s4d predict` and `s4d evaluate`, clip by clip."""
    plan = Plan(clips=70, images=4, identities=20, pretrain_clips=1, seed=8, size=112)
    rows: dict[str, list[tuple[str, str, str]]] = {"faces": [], "clips": []}
    for number in range(plan.clips):
        pictures = [np.asarray(frame) for frame in render_clip(plan, number)[0]]
        label = classes["clips"][number % len(classes["clips"])]
        path = tmp_path / f"clips/{number:02d}"
        if number % 3:
            video_of(path.with_suffix(".mp4"), pictures)
            rows["clips"].append((f"{path.name}.mp4", "video", label))
        else:
            path.mkdir(parents=True)
            for place, pixels in enumerate(pictures):
                Image.fromarray(pixels).save(path / f"{place}.jpg", quality=90)
            rows["clips"].append((path.name, "frames", label))
    for number, label in enumerate(classes["faces"]):
        Image.fromarray(pictures[number]).save(tmp_path / f"clips/face{number}.png")
        rows["faces"].append((f"face{number}.png", "image", label))
    for source, listed in rows.items():
        save_rows(tmp_path / "clips", source, listed)
        (tmp_path / f"clips/{source}.csv").rename(tmp_path / f"{source}.csv")
    run = run_of(config_of(tmp_path, evaluation={"temporal_views": 2, "spatial_views": 2}))
    assert main(["evaluate", str(run), "--out", str(tmp_path / "scores")]) == 0
    for path in (tmp_path / "clips").glob("face*.png"):
        path.unlink()
    capsys.readouterr()
    arguments = ["predict", str(tmp_path / "clips"), "--checkpoint", str(run), "--frames", "--json"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    answers = json.loads(capsys.readouterr().out)["predictions"]
    found = {Path(answer["input"]).name: np.array(answer["probabilities"]) for answer in answers}
    expected = read_predictions(tmp_path / "scores/predictions.npz")["clips"]
    assert len(found) == len(expected.sample_ids) == 70 and found.keys() == set(expected.sample_ids)
    for sample, probabilities in zip(expected.sample_ids, expected.probabilities, strict=True):
        np.testing.assert_allclose(found[sample], probabilities, rtol=0, atol=TOLERANCE)
        assert found[sample].argmax() == probabilities.argmax()
    assert np.ptp(expected.probabilities, axis=0).max() > 1000 * TOLERANCE
