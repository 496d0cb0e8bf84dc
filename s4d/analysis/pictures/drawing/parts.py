"""The parts of a report that `pictures.npz` adds."""

from __future__ import annotations

from s4d.analysis.picture import Picture
from s4d.analysis.pictures.drawing.activation import activation_picture
from s4d.analysis.pictures.drawing.experts import expert_pictures
from s4d.analysis.pictures.drawing.features import feature_picture
from s4d.analysis.pictures.drawing.rollout import rollout_picture
from s4d.analysis.pictures.record import Pictures


def picture_parts(pictures: Pictures) -> dict[str, list[Picture]]:
    """Pictures by title; a part without any is left out."""
    activations = [activation_picture(source) for source in pictures.sources]
    parts = {
        "Features of test samples": [feature_picture(pictures.features)] if pictures.features is not None else [],
        "Where attention rests": [rollout_picture(source) for source in pictures.sources],
        "Experts on faces": [picture for source in pictures.sources for picture in expert_pictures(source)],
        "Classes over time": [picture for picture in activations if picture is not None],
    }
    return {title: found for title, found in parts.items() if found}
