"""Clips play their class over time: onset after a neutral start, signature of the apex, distractors in neutral ones."""

from __future__ import annotations

import numpy as np
import pytest

from s4d.synth.action_units import CLASSES, COLUMN
from s4d.synth.dynamics import PROFILES, Profile, envelope, perform
from s4d.synth.streams import stream

TIMES = (np.arange(48) + 0.5) / 48
SUSTAINED = ("happiness", "sadness", "fear", "anger")
BRIEF = ("surprise", "disgust")


def envelopes(label: str) -> np.ndarray:
    return np.stack([envelope(PROFILES[label], TIMES, stream(0, "clip", index)) for index in range(60)])


@pytest.mark.parametrize("label", [label for label in CLASSES if label != "neutral"])
def test_expression_starts_late_and_reaches_its_apex(label: str) -> None:
    curves = envelopes(label)
    assert np.all(curves[:, TIMES < 0.08] < 0.05)
    assert np.all(curves.max(axis=1) > 0.9)
    apex = TIMES[curves.argmax(axis=1)]
    assert apex.max() - apex.min() > 0.15


@pytest.mark.parametrize("label", SUSTAINED)
def test_sustained_classes_hold_their_apex(label: str) -> None:
    high = envelopes(label) > 0.9
    assert np.all((high.mean(axis=1) > 0.3) | high[:, -1])


@pytest.mark.parametrize("label", BRIEF)
def test_brief_classes_fade(label: str) -> None:
    share = (envelopes(label) > 0.5).mean(axis=1)
    assert share.max() < 0.6


def test_rivals_differ_in_time_not_in_units() -> None:
    """Surprise and fear share most of their apex, so that its frame alone decides less than its course."""
    for first, second in (("surprise", "fear"), ("disgust", "anger")):
        assert PROFILES[first].rival == second
        assert PROFILES[second].rival == first
        assert (envelopes(first) > 0.5).mean() < (envelopes(second) > 0.5).mean()


def test_neutral_clips_speak_and_blink_and_hold_still_otherwise() -> None:
    distractors = [COLUMN[unit] for unit in (25, 26, 18, 43)]
    quiet = [column for unit, column in COLUMN.items() if column not in distractors]
    spoken = blinked = 0
    for index in range(20):
        units = np.stack([face.units for face in perform("neutral", 24, stream(1, "clip", index))])
        assert np.ptp(units[:, :, quiet], axis=0).max() == 0.0
        spoken += np.ptp(units[:, 0, COLUMN[26]]) > 0.1
        blinked += units[:, 0, COLUMN[43]].max() > 0.5
    assert spoken >= 10
    assert blinked >= 5


def test_head_moves_with_its_class() -> None:
    def drift(label: str, field: str) -> float:
        moves = []
        for index in range(30):
            faces = perform(label, 24, stream(2, "clip", index))
            track = np.array([getattr(face.pose, field) for face in faces])
            moves.append(track[-3:].mean() - track[:3].mean())
        return float(np.mean(moves))

    assert drift("sadness", "y") > drift("neutral", "y") + 0.03
    assert drift("anger", "scale") > drift("neutral", "scale") + 0.02
    assert drift("anger", "pitch") > drift("neutral", "pitch") + 0.05


def test_reversed_span_is_refused() -> None:
    with pytest.raises(ValueError, match="onset"):
        Profile(onset=(0.3, 0.1), hold=(0.1, 0.2), offset=(0.1, 0.2))
