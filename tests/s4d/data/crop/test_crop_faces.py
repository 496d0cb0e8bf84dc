"""Tables of faces, what cannot be a face, and one face followed through a clip."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from s4d.data.crop.boxes import read_boxes, read_openface
from s4d.data.crop.faces import Face, check_face
from s4d.data.crop.finders import DetectorFinder, OpenFaceFinder, open_annotations, spread
from s4d.data.crop.track import main_face, steady, still, track_of
from s4d.errors import DataError

NAN, INF = float("nan"), float("inf")
SIZE = (200, 100)


def box(left: float, top: float, side: float = 20) -> Face:
    return Face(box=(left, top, left + side, top + side))


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ((50, 10, 40, 30), "inverted"),
        ((10, 30, 40, 30), "inverted or empty"),
        ((10, 30, 11, 70), "smaller than 2 pixels"),
        ((NAN, 10, 40, 30), "not finite"),
        ((10, 10, INF, 30), "not finite"),
        ((200, 10, 240, 30), "outside of the frame of 200 x 100"),
        ((10, -30, 40, -5), "outside of the frame"),
        ((-250, 10, 40, 30), "far wider"),
        ((10, 10, 40, 300), "far higher"),
    ],
)
def test_wrong_boxes(wrong: tuple[float, float, float, float], why: str) -> None:
    with pytest.raises(DataError, match=rf"^m\.csv: row 3: field 'face_box': .*{why}"):
        check_face(Face(box=wrong, where="m.csv: row 3"), SIZE)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ((50, 40, 50.5, 40), "eyes fall together"),
        ((50, NAN, 80, 40), "not finite"),
        ((250, 40, 280, 40), "eyes lie outside"),
        ((-90, 40, 299, 40, *[0.0] * 6), None),
        ((90, 40, 120, 40, 100, 50, -900, 60, 110, 60), "far outside"),
    ],
)
def test_wrong_points(wrong: tuple[float, ...], why: str | None) -> None:
    face = Face(points=wrong, where="m.csv: row 3")
    if why is None:
        check_face(face, SIZE)
        return
    with pytest.raises(DataError, match=rf"^m\.csv: row 3: field 'face_points': .*{why}"):
        check_face(face, SIZE)


def test_faces_cut_by_the_frame_are_faces() -> None:
    check_face(Face(box=(-15, -10, 30, 40)), SIZE)


def test_a_box_from_eyes_alone() -> None:
    left, top, right, bottom = Face(points=(40, 50, 70, 50)).outline()
    assert right - left == pytest.approx(bottom - top) == pytest.approx(30 / 0.31474)
    assert (left + right) / 2 == pytest.approx(55) and top < 50 < (top + bottom) / 2


def test_boxes_as_corners_sizes_and_parts(tmp_path: Path) -> None:
    corners = write(tmp_path / "a.csv", "sample,left,top,right,bottom", "x,1,2,30,40")
    sizes = write(tmp_path / "b.csv", "sample,frame,x,y,width,height", "x,0,1,2,29,38", "x,1,,,,")
    parts = write(tmp_path / "c.csv", "sample,unit,left,top,right,bottom", "x,part,0.1,0.2,0.3,0.4")
    assert spread(read_boxes(corners)["x"], 2, SIZE) == [Face(box=(1, 2, 30, 40), where=f"{corners}: line 2")] * 2
    first, second = spread(read_boxes(sizes)["x"], 2, SIZE)
    assert first is not None and first.box == (1, 2, 30, 40) and second is None
    only = spread(read_boxes(parts)["x"], 1, SIZE)[0]
    assert only is not None and only.box == pytest.approx((20, 20, 60, 40))


def test_points_in_a_table(tmp_path: Path) -> None:
    eyes = "left_eye_x,left_eye_y,right_eye_x,right_eye_y"
    rest = "nose_x,nose_y,left_mouth_x,left_mouth_y,right_mouth_x,right_mouth_y"
    table = write(tmp_path / "t.csv", f"sample,{eyes},{rest}", "a,1,2,3,4,5,6,7,8,9,10", "b,1,2,3,4,,,,,,")
    faces = read_boxes(table)
    assert faces["a"][None] == Face(points=tuple(map(float, range(1, 11))), where=f"{table}: line 2")
    assert faces["b"][None] == Face(points=(1.0, 2.0, 3.0, 4.0), where=f"{table}: line 3")


@pytest.mark.parametrize(
    ("header", "line", "named"),
    [
        ("sample,left,top,right,bottom", "x,1,2,three,4", "field 'right': expected a number, got 'three'"),
        ("sample,left,top,right,bottom", "x,1,2,,4", "field 'right': expected a number, got ''"),
        ("sample,left,top,right,bottom", ",1,2,3,4", "field 'sample' is empty"),
        ("sample,frame,left,top,right,bottom", "x,-1,1,2,3,4", "field 'frame'"),
        ("sample,unit,left,top,right,bottom", "x,mm,1,2,3,4", "field 'unit'"),
        ("sample,left,top,right,bottom,x,y,width,height", "x,1,2,3,4,1,2,3,4", "given twice"),
        ("sample,left_eye_x,left_eye_y", "x,1,2", "field 'right_eye_x': expected a number"),
        ("sample,left,top,right,bottom", "x,1,2,3,4\nx,1,2,3,4", "'x' has a face for this frame already"),
        ("sample,links,top,right,bottom", "x,1,2,3,4", "unknown column 'links'"),
        ("left,top,right,bottom", "1,2,3,4", "column 'sample' is missing"),
    ],
)
def test_wrong_tables(tmp_path: Path, header: str, line: str, named: str) -> None:
    table = write(tmp_path / "t.csv", header, line)
    with pytest.raises(DataError, match=rf"t\.csv: line \d: .*{named}"):
        read_boxes(table)


def test_a_frame_that_the_sample_does_not_have(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", "sample,frame,left,top,right,bottom", "x,5,1,2,30,40")
    with pytest.raises(DataError, match=r"t\.csv: line 2: field 'frame': 5, but the sample has 5 frames"):
        spread(read_boxes(table)["x"], 5, SIZE)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    place=st.floats(0, 1),
    junk=st.binary(max_size=12),
    cut=st.integers(0, 12),
    kind=st.sampled_from(["own", "openface"]),
)
def test_damaged_tables(tmp_path: Path, place: float, junk: bytes, cut: int, kind: str) -> None:
    """Bytes written over a good table give faces or one DataError, never anything else."""
    if kind == "own":
        lines = ["sample,frame,unit,left,top,right,bottom,left_eye_x,left_eye_y,right_eye_x,right_eye_y"]
        lines += [f"c,{frame},part,0.1,0.2,0.3,0.4,0.15,0.25,0.2,0.25" for frame in range(3)]
    else:
        lines = openface_lines([(1, 1, 10.0), (2, 0, 0.0)])
    content = ("\n".join(lines) + "\n").encode()
    at = int(place * len(content))
    path = tmp_path / "damaged.csv"
    path.write_bytes(content[:at] + junk + content[at + cut :])
    try:
        tables = read_boxes(path).values() if kind == "own" else [read_openface(path)]
        for faces in tables:
            spread(faces, 3, SIZE)
    except DataError as error:
        assert "damaged.csv" in str(error)


def openface_lines(rows: list[tuple[int, int, float]]) -> list[str]:
    """Rows of (frame, success, left edge): landmarks that lie 1 pixel apart, eyes and mouth spread around them."""
    columns = [f"x_{i}" for i in range(68)] + [f"y_{i}" for i in range(68)]
    lines = [", ".join(("frame", "face_id", "timestamp", "confidence", "success", *columns))]
    for frame, success, left in rows:
        xs, ys = [left + i for i in range(68)], [40.0 + i / 2 for i in range(68)]
        lines.append(", ".join(map(str, (frame, 0, 0.0, 0.9, success, *xs, *ys))))
    return lines


def test_openface(tmp_path: Path) -> None:
    path = write(tmp_path / "b.csv", *openface_lines([(1, 1, 10.0), (2, 0, 0.0), (3, 1, 12.0)]))
    faces = read_openface(path)
    assert faces[1] is None and set(faces) == {0, 1, 2}
    face = faces[0]
    assert face is not None and face.box == (10, 40, 77, 73.5)
    assert face.points == pytest.approx((48.5, 59.25, 54.5, 62.25, 40, 55, 58, 64, 64, 67), abs=0.051)
    with pytest.raises(DataError, match="column 'x_0' is missing"):
        read_openface(write(tmp_path / "c.csv", "frame, success", "1, 1"))


@pytest.mark.parametrize("name", ["videos/b.csv", "videos/b.mp4.csv", "b.csv"])
def test_openface_files_by_path_and_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "videos").mkdir()
    write(tmp_path / name, *openface_lines([(1, 1, 10.0)]))
    finder = open_annotations(tmp_path)
    assert isinstance(finder, OpenFaceFinder)

    class Clip:
        names = ("clip 7", "videos/b.mp4")
        face = None

    class Other:
        names = ("clip 8", "videos/c.mp4")
        face = None

    assert finder.find(Clip(), [], 2, SIZE)[0] is not None
    assert finder.find(Other(), [], 2, SIZE) == [None, None]


def test_a_folder_without_any_csv_is_not_one_of_openface(tmp_path: Path) -> None:
    write(tmp_path / "notes.txt", "x")
    with pytest.raises(DataError, match=f"{tmp_path}: no csv file"):
        open_annotations(tmp_path)


def test_openface_files_that_change_are_other_faces(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    path = write(tmp_path / "videos/b.csv", *openface_lines([(1, 1, 10.0)]))
    before = open_annotations(tmp_path).origin
    assert open_annotations(tmp_path).origin == before
    write(path, *openface_lines([(1, 1, 10.0), (2, 1, 12.0)]))
    assert open_annotations(tmp_path).origin != before


def test_gaps_are_filled_in_a_straight_line() -> None:
    track = steady(track_of([None, box(10, 0), None, None, box(40, 30), None]), 1)
    np.testing.assert_allclose(track.boxes[:, 0], [10, 10, 20, 30, 40, 40])
    np.testing.assert_allclose(track.boxes[:, 3], [20, 20, 30, 40, 50, 50])


def test_an_outlier_does_not_move_the_crop() -> None:
    faces: list[Face | None] = [box(10 + i, 5) for i in range(9)]
    faces[4] = box(150, 70)
    np.testing.assert_allclose(steady(track_of(faces), 5).boxes[:, 0], [10, 11, 12, 13, 15, 16, 17, 17, 18])


def test_even_motion_is_not_held_back() -> None:
    faces = [box(3.0 * i, i) for i in range(7)]
    np.testing.assert_allclose(steady(track_of(faces), 5).boxes, track_of(faces).boxes)


def test_one_crop_for_a_clip() -> None:
    track = still(steady(track_of([box(10, 5), box(12, 5), box(50, 5)]), 1))
    np.testing.assert_allclose(track.boxes, [[12, 5, 32, 25]] * 3)


def test_largest_and_most_central_face_is_followed() -> None:
    def frame(i: int) -> list[Face]:
        main, small, corner = box(80 + i, 40, 30), box(20, 40, 15), box(170, 70, 30)
        return [[main, small, corner], [corner, main], [small, corner], [small, main, corner]][i]

    followed = main_face([frame(i) for i in range(4)], SIZE)
    assert [face and face.box and face.box[0] for face in followed] == [80, 81, None, 83]


def test_a_face_is_followed_though_another_grows_larger_for_a_moment() -> None:
    detections = [[box(80, 40, 30), box(10, 10, 20)] for _ in range(9)]
    detections[4][1] = box(10, 10, 60)
    followed = main_face(detections, SIZE)
    assert all(face is not None and face.box is not None and face.box[0] == 80 for face in followed)


def test_no_face_at_all() -> None:
    assert main_face([[], []], SIZE) == [None, None]


def test_impossible_detections_do_not_count() -> None:
    class Detector:
        origin = "made"

        def detect(self, frame: NDArray[np.uint8]) -> list[Face]:
            return [Face(box=(NAN, 0, 10, 10)), Face(box=(500, 0, 700, 90)), box(40, 40)]

    class Clip:
        names = ("clip",)
        face = None

    found = DetectorFinder(Detector()).find(Clip(), [np.zeros((100, 200, 3), np.uint8)], 1, SIZE)
    assert found == [box(40, 40)]
