"""CelebV-HQ and CelebV-Text: clips, boxes, emotions, and JSON files that are wrong."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tree_case import put, video
from trees_static import celebv_hq, celebv_hq_info, celebv_text

from s4d.data.manifest_io import prepare_manifest
from s4d.errors import DataError

FIRST = "-Qx_0_0"


def test_labels_are_emotions_by_time(tmp_path: Path) -> None:
    celebv_hq(tmp_path)
    rows = {row.sample_id: row for row in prepare_manifest("celebv_hq", tmp_path, tmp_path / "out.csv").rows}
    assert (rows[FIRST].label, rows[FIRST].distribution) == ("neutral", (("neutral", 1.0),))
    # 2.5 seconds happy, 1.5 neutral in two parts.
    assert rows["-Qx_0_1"].label == "happiness"
    assert dict(rows["-Qx_0_1"].distribution or ()) == pytest.approx({"neutral": 0.375, "happiness": 0.625})
    assert {row.identity for row in rows.values()} == {"-Qx_0", "-Qx_1", "-Qx_2"}
    assert {row.split for row in rows.values()} == {"train"}


def test_missing_clips_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    celebv_hq(tmp_path)
    assert len(prepare_manifest("celebv_hq", tmp_path, tmp_path / "out.csv").rows) == 8
    assert "celebvhq_info.json: 1 of 9 clips are not below" in caplog.text
    assert "-Qx_2_8" in caplog.text


def test_boxes_of_clips_that_are_not_cut_out(tmp_path: Path) -> None:
    celebv_hq(tmp_path / "hq")
    rows = {row.sample_id: row for row in prepare_manifest("celebv_hq", tmp_path / "hq", tmp_path / "out.csv").rows}
    assert rows["-Qx_0_2"].face_box == (16, 0, 32, 24)
    assert rows[FIRST].face_box is None
    celebv_text(tmp_path / "text")
    texts = prepare_manifest("celebv_text", tmp_path / "text", tmp_path / "out.csv").rows
    assert [row.face_box for row in texts] == [None, None, (20, 0, 50, 30), None]
    assert {row.label for row in texts} == {None}


def change(root: Path, alter: Callable[[dict[str, Any]], object]) -> None:
    info = copy.deepcopy(celebv_hq_info())
    alter(info["clips"][FIRST])  # type: ignore[index]
    put(root / "celebvhq_info.json", json.dumps(info))


def test_what_is_unclear_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    celebv_hq(tmp_path)
    change(tmp_path, lambda clip: clip["attributes"]["emotion"].update(labels="bored"))
    (tmp_path / "processed/-Qx_1_3.mp4").rename(tmp_path / "processed/-Qx_1_3.avi")
    rows = {row.sample_id: row for row in prepare_manifest("celebv_hq", tmp_path, tmp_path / "out.csv").rows}
    assert (rows[FIRST].label, rows[FIRST].distribution) == (None, None)
    assert "1 clips have an emotion that is no class: 'bored'" in caplog.text
    assert "1 clips have no label" in caplog.text


def test_a_box_larger_than_the_frame_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    celebv_text(tmp_path)
    path = tmp_path / "celebvtext_info.json"
    put(path, path.read_text().replace('"right": 50', '"right": 1872'))
    rows = prepare_manifest("celebv_text", tmp_path, tmp_path / "out.csv").rows
    assert {row.face_box for row in rows} == {None}
    assert "1 clips are smaller than the video that their face box was drawn in" in caplog.text


def test_other_homes_of_clips_and_a_flat_file(tmp_path: Path) -> None:
    celebv_text(tmp_path)
    (tmp_path / "processed").rename(tmp_path / "mine")
    path = tmp_path / "celebvtext_info.json"
    flat = {f"{name}.mp4": clip for name, clip in json.loads(path.read_text())["clips"].items()}
    put(path, json.dumps(flat))
    rows = prepare_manifest("celebv_text", tmp_path, tmp_path / "out.csv", media="mine").rows
    assert [row.path for row in rows] == [f"mine/0-5BrmyFsYM_{number}.mp4" for number in range(4)]
    with pytest.raises(DataError, match=r"none of its 4 clips is there \(looked for <clip>.mp4 in \.\)"):
        prepare_manifest("celebv_text", tmp_path, tmp_path / "out.csv")


def drop(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda clip: clip.pop(name)


WRONG: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no-id": (drop("ytb_id"), "field 'ytb_id': expected text, got None"),
    "no-box": (drop("bbox"), "field 'bbox': expected fields, got None"),
    "no-side": (lambda clip: clip["bbox"].pop("top"), "field 'bbox': 'top': expected a number of at least 0, got None"),
    "negative": (lambda clip: clip["bbox"].update(left=-0.1), "field 'bbox': 'left': expected a number of at least 0"),
    "no-extent": (lambda clip: clip["bbox"].update(right=0.1), "field 'bbox': the box [0.25, 0.0, 0.1, 0.75] has no"),
    "no-attributes": (drop("attributes"), "field 'attributes': expected fields, got None"),
    "no-emotion": (lambda clip: clip["attributes"].pop("emotion"), "field 'emotion': expected fields, got None"),
    "number": (lambda clip: clip["attributes"]["emotion"].update(labels=3), "field 'labels': expected a list, got 3"),
    "times": (
        lambda clip: clip["attributes"]["emotion"].update(labels=[{"emotion": "sad", "start_sec": 2, "end_sec": 1}]),
        "field 'emotion': 'end_sec': expected at least 2, got 1",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_clips_are_named(tmp_path: Path, wrong: str) -> None:
    celebv_hq(tmp_path)
    alter, message = WRONG[wrong]
    change(tmp_path, alter)
    with pytest.raises(DataError) as caught:
        prepare_manifest("celebv_hq", tmp_path, tmp_path / "out.csv")
    assert f"{tmp_path / 'celebvhq_info.json'}: clip {FIRST!r}: " in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not a readable JSON file"),
        (b"\xff", "not a readable JSON file"),
        (b"[" * 100_000, "not a readable JSON file"),
        (b"[]", "field 'clips': expected clips by name"),
        (b'{"clips": {}}', "field 'clips': expected clips by name"),
        (b'{"clips": {"a": 1}}', "clip 'a': expected fields, got 1"),
        (b'{"clips": {"a": {}, "a": {}}}', "'a' occurs twice"),
        (b'{"clips": {"a": {}, "a.mp4": {}}}', "clip 'a' occurs twice"),
        (b'{"clips": {"../a": {}}}', "clip '../a': '../a' leads out of its folder (..)"),
        (b'{"clips": {"/a": {}}}', "clip '/a': '/a' is an absolute path"),
        (b'{"clips": {"b/a": {}}}', "clip 'b/a': expected a name without folders"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, text: bytes, message: str) -> None:
    celebv_hq(tmp_path)
    put(tmp_path / "celebvhq_info.json", text)
    with pytest.raises(DataError) as caught:
        prepare_manifest("celebv_hq", tmp_path, tmp_path / "out.csv")
    assert f"{tmp_path / 'celebvhq_info.json'}: " in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_files_of_one_clip(tmp_path: Path) -> None:
    celebv_hq(tmp_path)
    put(tmp_path / f"processed/{FIRST}.webm", video(1))
    with pytest.raises(DataError, match=f"two files of clip '{FIRST}': {FIRST}.mp4 and {FIRST}.webm"):
        prepare_manifest("celebv_hq", tmp_path, tmp_path / "out.csv")
