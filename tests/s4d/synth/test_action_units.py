"""Expressions are the EMFACS combinations, varied in strength and symmetry."""

from __future__ import annotations

import numpy as np
import pytest

from s4d.synth.action_units import CLASSES, COLUMN, EMFACS, UNITS, Prototype, express
from s4d.synth.streams import stream

# Ekman, Friesen: EMFACS prototypes of the basic emotions.
PUBLISHED = {
    "neutral": set(),
    "happiness": {6, 12},
    "sadness": {1, 4, 15},
    "surprise": {1, 2, 5, 26},
    "fear": {1, 2, 4, 5, 7, 20, 26},
    "disgust": {9, 15, 16},
    "anger": {4, 5, 7, 23},
}


def test_prototypes_are_the_published_ones() -> None:
    assert {label: set(prototype.required) for label, prototype in EMFACS.items()} == PUBLISHED


@pytest.mark.parametrize("label", CLASSES)
def test_only_units_of_the_prototype_act(label: str) -> None:
    prototype = EMFACS[label]
    allowed = {COLUMN[unit] for unit in (*prototype.required, *prototype.optional)}
    required = {COLUMN[unit] for unit in prototype.required}
    for index in range(20):
        units = express(label, stream(0, "image", index), intensity=0.8, asymmetry=0.1)
        active = set(np.flatnonzero(units.any(axis=0)).tolist())
        assert required <= active <= allowed


def test_intensity_scales_and_zero_is_neutral() -> None:
    weak = express("fear", stream(0, "image", 3), intensity=0.3, asymmetry=0.1)
    strong = express("fear", stream(0, "image", 3), intensity=0.9, asymmetry=0.1)
    np.testing.assert_allclose(strong, 3 * weak, rtol=1e-5)
    assert not express("fear", stream(0, "image", 3), intensity=0.0, asymmetry=0.1).any()


def test_asymmetry_separates_the_sides() -> None:
    even = express("anger", stream(0, "image", 1), intensity=1.0, asymmetry=0.0)
    uneven = express("anger", stream(0, "image", 1), intensity=1.0, asymmetry=0.2)
    assert np.array_equal(even[0], even[1])
    assert not np.array_equal(uneven[0], uneven[1])


def test_draws_do_not_depend_on_the_class() -> None:
    """The stream stands at the same place after any class, so a picture's scene does not tell its label."""
    following = []
    for label in CLASSES:
        rng = stream(0, "image", 7)
        express(label, rng, intensity=1.0, asymmetry=0.1)
        following.append(rng.integers(1 << 40))
    assert len(set(following)) == 1


def test_unknown_unit_is_refused() -> None:
    assert 3 not in UNITS
    with pytest.raises(ValueError, match=r"\[3\]"):
        Prototype(required=(3, 12))
