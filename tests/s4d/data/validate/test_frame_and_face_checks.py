"""Traps of frame folders, and where the faces are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from s4d.data.crop.geometry import target_points
from s4d.data.crop.recipe import RECIPES
from s4d.data.validate.faces import (
    check_crop,
    check_crop_of_model,
    check_eye_line,
    check_face_boxes,
    eye_angles,
    face_areas,
)
from s4d.data.validate.frames import check_order, check_stride
from s4d.data.validate.subject import Reference

Make = Callable[..., object]


def codes(findings: object) -> list[str]:
    return [item.code for item in findings]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, None),
        ({"order_differs": True}, "frame-order"),
        ({"missing_numbers": 2}, "frame-gaps"),
        ({"suffixes": (".jpg", ".png")}, "frame-formats"),
        ({"sizes": 2}, "frame-sizes"),
    ],
)
def test_frame_folders(
    make_row: Make, make_probe: Make, make_subject: Make, fields: dict[str, object], code: str | None
) -> None:
    rows = [make_row("a", kind="frames"), make_row("b", kind="frames")]
    probes = [make_probe("a", kind="frames", frames=9), make_probe("b", kind="frames", frames=9, **fields)]
    found = list(check_order(make_subject(rows, probes)))
    assert codes(found) == ([code] if code else [])
    assert all(item.text.startswith("1 of 2 media") and "(first: b)" in item.text for item in found)


@pytest.mark.parametrize(
    ("counts", "stride", "is_found"),
    [
        ([16] * 10, 4, True),
        ([16] * 9 + [70], 4, True),
        ([16] * 5 + [70] * 5, 4, False),
        ([16] * 10, 1, False),
        ([70] * 10, 4, False),
        ([None] * 10, 4, False),
    ],
)
def test_a_16_frame_copy_with_a_stride(
    make_row: Make, make_subject: Make, counts: list[int | None], stride: int, is_found: bool
) -> None:
    rows = [make_row(str(number), kind="frames", frame_count=count) for number, count in enumerate(counts)]
    found = list(check_stride(make_subject(rows, stride=stride)))
    assert codes(found) == (["short-copy"] if is_found else [])


def test_a_16_frame_copy_is_known_from_the_scan_too(make_row: Make, make_probe: Make, make_subject: Make) -> None:
    subject = make_subject([make_row("a", kind="frames")], [make_probe("a", kind="frames", frames=16)])
    assert codes(check_stride(subject)) == ["short-copy"]


def test_face_boxes(make_row: Make, make_probe: Make, make_subject: Make) -> None:
    boxes = {"good": (10, 10, 90, 90), "outside": (30, 30, 120, 100), "upside down": (20, 60, 60, 20)}
    rows = [make_row(name, face_box=box) for name, box in boxes.items()]
    probes = [make_probe(name) for name in boxes]
    found = list(check_face_boxes(make_subject(rows, probes)))
    assert [(item.severity, item.code, item.row) for item in found] == [
        ("error", "face-box", 3),
        ("warning", "face-outside", None),
    ]
    good = make_subject(rows[:1], probes[:1])
    assert not list(check_face_boxes(good))
    assert face_areas(good).tolist() == [0.64]


def test_small_faces_were_not_cut_out(make_row: Make, make_probe: Make, make_subject: Make) -> None:
    rows = [make_row("a", face_box=(10, 10, 40, 40))]
    (finding,) = check_face_boxes(make_subject(rows, [make_probe("a")]))
    assert (finding.code, finding.severity) == ("face-small", "warning")
    assert "9.0%" in finding.text


def test_eye_line(make_row: Make, make_subject: Make) -> None:
    level = [make_row(f"level{number}", face_points=(30.0, 40.0, 70.0, 40.0)) for number in range(9)]
    subject = make_subject(level)
    assert not list(check_eye_line(subject)) and not eye_angles(subject).any()
    tilted = make_row("tilted", face_points=(30.0, 30.0, 70.0, 70.0))
    (finding,) = check_eye_line(make_subject([*level, tilted]))
    assert finding.code == "eyes-tilted" and "(first: tilted)" in finding.text
    swapped = make_row("swapped", face_points=(70.0, 40.0, 30.0, 40.0))
    (finding,) = check_eye_line(make_subject([*level, swapped]))
    assert finding.code == "eyes-swapped" and "(first: swapped)" in finding.text
    np.testing.assert_allclose(eye_angles(make_subject([tilted, swapped])), [45.0, 0.0])


def test_eyes_against_the_crop_recipe(make_row: Make, make_probe: Make, make_subject: Make) -> None:
    recipe = RECIPES["eyes"]
    eyes = target_points(recipe)[:2]
    shifted = eyes + 0.5 * np.linalg.norm(eyes[1] - eyes[0])
    probes = [make_probe("a", width=recipe.size, height=recipe.size)]

    def found(points: np.ndarray, crop: str, size: int = recipe.size) -> list[str]:
        rows = [make_row("a", face_points=tuple(points.ravel().tolist()))]
        return codes(check_crop(make_subject(rows, [make_probe("a", width=size, height=size)], crop=crop)))

    assert probes and found(eyes, recipe.recipe_id) == []
    assert found(eyes[::-1], recipe.recipe_id) == []
    assert found(shifted, recipe.recipe_id) == ["crop-eyes"]
    assert found(shifted, "box") == []
    assert found(shifted, "") == []
    assert found(eyes, recipe.recipe_id, size=100) == ["crop-size"]
    assert found(eyes, "no such recipe") == ["crop-recipe"]


@pytest.mark.parametrize(
    ("crop", "seen", "is_found"),
    [("box", {"eyes"}, True), ("eyes", {"eyes", "box"}, False), ("", {"eyes"}, False), ("box", set(), False)],
)
def test_the_crop_recipe_against_a_model(
    make_row: Make, make_subject: Make, crop: str, seen: set[str], is_found: bool
) -> None:
    reference = Reference(folder=Path("run"), heads={}, crops=frozenset(seen))
    found = check_crop_of_model(make_subject([make_row("a")], crop=crop, reference=reference))
    assert codes(found) == (["crop-of-model"] if is_found else [])
