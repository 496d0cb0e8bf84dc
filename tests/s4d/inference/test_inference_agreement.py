"""A prediction is what an evaluation says of the same sample."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from s4d.config import Config, load
from s4d.data.batch import PackedBatch
from s4d.data.evaluation import build_evaluation
from s4d.inference.clip import open_clip
from s4d.inference.model import S4D
from s4d.inference.packed_views import pack_views
from s4d.inference.views import stream_views
from s4d.models.trained import load_trained
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
