"""What a head takes, as it is kept with the weights."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from s4d.config import Config
from s4d.data.draw_sample import EvalView
from s4d.data.input_recipe import InputRecipe, input_recipe


@pytest.fixture
def recipes(finetune_config: Callable[..., Config]) -> dict[str, InputRecipe]:
    config = finetune_config(
        data={"video": {"resize": "square"}, "frame_sampling": "release", "order": "lexicographic"},
        evaluation={"temporal_views": 3, "spatial_views": 2},
        seed=4,
    )
    return {source.name: input_recipe(config, source) for source in config.data.sources}


def test_a_source_of_each_modality(recipes: dict[str, InputRecipe]) -> None:
    clips, images = recipes["clips"], recipes["images"]
    assert (clips.num_frames, clips.stride, clips.spec.rule, clips.resize) == (4, 2, "release", "square")
    assert (images.num_frames, images.stride, images.spec.rule, images.resize) == (1, 1, "window", "short_side")
    assert clips.views == [EvalView(temporal=(i, 3), spatial=(j, 2)) for i in range(3) for j in range(2)]
    assert images.views == [EvalView()]
    assert clips.order == images.order == "lexicographic" and clips.seed == 4 and clips.image_size == 32


def test_json_brings_it_back(recipes: dict[str, InputRecipe]) -> None:
    for recipe in recipes.values():
        assert InputRecipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"stride": 0}, "stride: expected a whole number"),
        ({"stride": True}, "stride"),
        ({"num_frames": 4.0}, "num_frames"),
        ({"resize": "tall"}, "resize: expected square or short_side, got 'tall'"),
        ({"modality": None}, "modality"),
        ({"small_decode": 1}, "small_decode"),
        ({"seed": "4"}, "seed"),
        ({"colour": 3}, "colour: is not a known field"),
    ],
)
def test_wrong_values_are_named(recipes: dict[str, InputRecipe], changes: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        InputRecipe.from_dict({**recipes["clips"].to_dict(), **changes})


def test_a_missing_field_is_named(recipes: dict[str, InputRecipe]) -> None:
    values = recipes["clips"].to_dict()
    del values["order"]
    with pytest.raises(ValueError, match="order: is missing"):
        InputRecipe.from_dict(values)


def test_draws_count_their_views(recipes: dict[str, InputRecipe]) -> None:
    clips = recipes["clips"]
    draws = clips.draws("a", clips.views, frame_count=20, size=(60, 40))
    assert len({draw.noise_key for draw in draws}) == len(draws) == 6
    assert draws[0].frame_indices == (0, 2, 4, 6) and draws[0].resized == (32, 32)
    assert clips.draws("b", clips.views, frame_count=20, size=(60, 40))[0].noise_key != draws[0].noise_key
