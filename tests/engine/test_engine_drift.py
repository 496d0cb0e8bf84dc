"""What may differ between a checkpoint and the run that continues it."""

from __future__ import annotations

from typing import Any

import pytest

from engine.drift import find_drift


def setting(value: Any, **more: Any) -> dict[str, Any]:
    return {"value": value, "free": False, **more}


BASE = {"seed": setting(0), "log_every": setting(10, free=True), "decoder": setting("a", free=["a", "b"])}


@pytest.mark.parametrize(
    ("changes", "accepted", "refused"),
    [
        ({}, (), ()),
        ({"seed": 1}, (), ("seed: 0 -> 1",)),
        ({"log_every": 5}, ("log_every: 10 -> 5",), ()),
        ({"log_every": None}, ("log_every: 10 -> null",), ()),
        ({"decoder": "b"}, ("decoder: a -> b",), ()),
        ({"decoder": "c"}, (), ("decoder: a -> c",)),
        ({"seed": 2, "log_every": 5, "decoder": "c"}, ("log_every: 10 -> 5",), ("seed: 0 -> 2", "decoder: a -> c")),
    ],
)
def test_every_difference_is_named_and_judged(
    changes: dict[str, Any], accepted: tuple[str, ...], refused: tuple[str, ...]
) -> None:
    new = {name: {**known, "value": changes.get(name, known["value"])} for name, known in BASE.items()}
    drift = find_drift(BASE, new)
    assert (drift.accepted, drift.refused) == (accepted, refused)


@pytest.mark.parametrize(
    ("added", "accepted", "refused"),
    [
        (setting(3, default=3), (), ()),
        (setting(4, default=3), (), ("new: 3 -> 4",)),
        (setting(4, default=3, free=True), ("new: 3 -> 4",), ()),
        (setting(4), (), ("new: (not set) -> 4",)),
    ],
)
def test_a_setting_the_checkpoint_does_not_know_had_its_default(
    added: dict[str, Any], accepted: tuple[str, ...], refused: tuple[str, ...]
) -> None:
    drift = find_drift(BASE, {**BASE, "new": added})
    assert (drift.accepted, drift.refused) == (accepted, refused)


@pytest.mark.parametrize(
    ("stored", "accepted", "refused"),
    [
        (setting(3, default=3), (), ()),
        (setting(4, default=3), (), ("later: 4 -> 3",)),
        (setting(4, default=3, free=True), ("later: 4 -> 3",), ()),
        (setting(4), (), ("later: 4 -> (not set)",)),
    ],
)
def test_a_setting_of_a_later_version_must_have_its_default(
    stored: dict[str, Any], accepted: tuple[str, ...], refused: tuple[str, ...]
) -> None:
    drift = find_drift({**BASE, "later": stored}, BASE)
    assert (drift.accepted, drift.refused) == (accepted, refused)


def test_the_continuation_decides_what_is_free() -> None:
    stored = {**BASE, "seed": setting(0, free=True)}
    assert find_drift(stored, {**BASE, "seed": setting(1)}).refused == ("seed: 0 -> 1",)


def test_long_values_are_cut() -> None:
    drift = find_drift({"list": setting("x" * 500)}, {"list": setting("y" * 500)})
    assert len(drift.refused[0]) < 200 and drift.refused[0].endswith("...")
