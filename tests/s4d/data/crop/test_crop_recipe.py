from __future__ import annotations

import pytest

from s4d.data.crop.recipe import RECIPES, CropRecipe, build_recipe, named
from s4d.errors import UsageError


def test_the_name_is_stable() -> None:
    assert CropRecipe().recipe_id == "eyes-224-m0.15-e0.4-frame-w5-black-jpg95"
    other = CropRecipe(align="none", size=96, margin=0, per="clip", smooth=1, edge="reflect", image_format="png")
    assert other.recipe_id == "none-96-m0-e0.4-clip-w1-reflect-png"


@pytest.mark.parametrize("recipe", [*RECIPES.values(), CropRecipe(margin=1 / 3, eye_line=0.123456, smooth=31)])
def test_the_name_says_everything(recipe: CropRecipe) -> None:
    assert named(recipe.recipe_id) == recipe


def test_changes_to_a_named_recipe() -> None:
    changed = build_recipe("box", size=112, margin=None, edge="reflect")
    assert changed == CropRecipe(align="none", per="clip", size=112, edge="reflect")


@pytest.mark.parametrize(
    ("changes", "named_field"),
    [
        ({"size": 223}, "size"),
        ({"size": 8}, "size"),
        ({"margin": -0.1}, "margin"),
        ({"margin": float("nan")}, "margin"),
        ({"eye_line": 1.0}, "eye_line"),
        ({"smooth": 4}, "smooth"),
        ({"smooth": 0}, "smooth"),
        ({"align": "nose"}, "align"),
        ({"image_format": "jpg101"}, "image_format"),
        ({"image_format": "bmp"}, "image_format"),
    ],
)
def test_what_cannot_be(changes: dict[str, object], named_field: str) -> None:
    with pytest.raises(UsageError, match=f"crop recipe: {named_field}: expected"):
        build_recipe("eyes", **changes)


@pytest.mark.parametrize("name", ["eye", "eyes-224", "eyes-224-m0.3.1-e0.4-frame-w5-black-jpg95"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(UsageError, match=f"crop recipe '{name}'"):
        build_recipe(name)
