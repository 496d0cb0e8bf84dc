"""The Python API: what it takes, what it answers, what it refuses."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import s4d
from s4d.data.input_recipe import InputRecipe
from s4d.errors import DataError, UsageError
from s4d.inference.model import S4D, recipes_of
from s4d.models.trained import TrainedModel, load_trained

Picture = Callable[..., np.ndarray]


def test_the_package_hands_it_over_without_loading_it_first() -> None:
    assert s4d.S4D is S4D
    with pytest.raises(AttributeError, match="nothing"):
        s4d.nothing  # noqa: B018
    code = "import sys, s4d; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_arrays_and_paths_agree(model: S4D, media: Path, picture_of: Picture) -> None:
    from PIL import Image

    pixels = np.asarray(Image.open(media / "faces/0.jpg").convert("RGB"))
    found, from_path = model.predict(pixels), model.predict(media / "faces/0.jpg")
    assert found.source == from_path.source == "faces" and found.modality == "image"
    np.testing.assert_allclose(found.probabilities, from_path.probabilities, atol=1e-6)
    assert found.windows == () and found.probabilities.sum() == pytest.approx(1)
    assert found.label == found.classes[int(found.probabilities.argmax())]
    assert found.probability == found.probabilities.max()
    assert model.predict(str(media / "clips/frames")).source == "clips"


def test_a_still_is_held_for_a_head_of_clips(model: S4D, picture_of: Picture) -> None:
    still = picture_of(1)
    held = model.predict(still, source="clips")
    clip = model.predict(np.stack([still] * 20))
    assert held.source == clip.source == "clips" and held.windows == ()
    np.testing.assert_allclose(held.probabilities, clip.probabilities, atol=1e-5)


def test_a_head_of_pictures_looks_at_frames_all_over_a_clip(model: S4D, picture_of: Picture) -> None:
    frames = np.stack([picture_of(number) for number in range(8)])
    found = model.predict(frames, source="faces", fps=2.0)
    singly = [model.predict(frame).probabilities for frame in frames]
    assert found.source == "faces" and found.views.shape == (8, 3)
    np.testing.assert_allclose(found.probabilities, np.mean(singly, axis=0), atol=1e-5)
    assert [window.first for window in found.windows] == list(range(8))
    np.testing.assert_allclose(found.windows[3].probabilities, singly[3], atol=1e-5)


def test_features_are_what_the_heads_see(model: S4D, picture_of: Picture) -> None:
    frame = picture_of(1)
    features = model.features(frame)
    assert features.shape == (model.trained.arch.embed_dim,)
    head = model.trained.module.head["faces"]
    logits = head(torch.from_numpy(features)).detach().numpy()
    expected = model.predict(frame).probabilities
    np.testing.assert_allclose(np.exp(logits) / np.exp(logits).sum(), expected, atol=1e-5)
    assert not np.allclose(model.features(frame, source="clips"), features)


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((4, 8, 8, 3), np.float32),
        np.zeros((8, 8), np.uint8),
        np.zeros((0, 8, 8, 3), np.uint8),
        np.zeros((4, 8, 8, 4), np.uint8),
        [],
    ],
)
def test_other_arrays_are_refused(model: S4D, frames: object) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \(F, H, W, 3\) or \(H, W, 3\), got"):
        model.predict(frames)


def test_wrong_requests_are_refused(model: S4D, picture_of: Picture, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no head .dogs. .*faces, clips"):
        model.predict(picture_of(1), source="dogs")
    with pytest.raises(ValueError, match="fps"):
        model.predict(np.zeros((4, 8, 8, 3), np.uint8), fps=0.0)
    with pytest.raises(UsageError, match="fps: belongs to frames in memory"):
        model.predict(tmp_path, fps=25.0)
    with pytest.raises(DataError, match=r"gone\.mp4: no such file"):
        model.predict(tmp_path / "gone.mp4")


def test_two_heads_of_one_kind_have_to_be_told_apart(model: S4D, picture_of: Picture) -> None:
    head = model.heads["faces"]
    other = S4D(model.trained)
    other.heads = {"a": head, "b": dataclasses.replace(head, source="b")}
    with pytest.raises(UsageError, match="choose one of the heads"):
        other.predict(picture_of(1))


def trained_with(model: S4D, **described: object) -> TrainedModel:
    trained = model.trained
    return dataclasses.replace(trained, described={**trained.described, **described}, run_config=None)


def test_a_recipe_that_is_wrong_is_named(model: S4D) -> None:
    inputs = json.loads(json.dumps(model.trained.described["inputs"]))
    wrong = {**inputs, "clips": {**inputs["clips"], "stride": -1}}
    with pytest.raises(DataError, match=r"config\.json: field 'inputs\.clips': stride: expected a whole number"):
        recipes_of(trained_with(model, inputs=wrong))
    other = {**inputs, "clips": {**inputs["clips"], "num_frames": 8}}
    with pytest.raises(DataError, match=r"field 'inputs\.clips': 8 frames of 32 pixels, .* takes 4 of 32"):
        recipes_of(trained_with(model, inputs=other))


def test_weights_that_answer_nonsense_are_refused(run: Path, picture_of: Picture) -> None:
    trained = load_trained(run, device="cpu")
    with torch.no_grad():
        trained.module.head["faces"].bias[0] = float("nan")
    with pytest.raises(DataError, match="answer to the frames is not finite"):
        S4D(trained).predict(picture_of(1))


def test_heads_say_what_they_take(model: S4D) -> None:
    clips = model.heads["clips"]
    assert isinstance(clips.recipe, InputRecipe) and clips.recipe.stride == 2 and clips.recipe.num_frames == 4
    assert clips.classes == ("sad", "glad", "angry", "calm")
