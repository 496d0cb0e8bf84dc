"""Tiny npy files and mp4 indices read by their bytes: the same as the libraries read, and nothing of what is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tree_case import SIZE, video
from trees_static import avi, wide

from s4d.datasets.mp4_size import frame_size
from s4d.datasets.small_arrays import load_each, load_small
from s4d.errors import DataError


@pytest.mark.parametrize(
    "array",
    [
        np.array("3"),
        np.array("-0.25"),
        np.array(b"7"),
        np.array(5),
        np.array([5], dtype=np.uint8),
        np.array(2.5, dtype=">f4"),
        np.arange(136.0),
        np.arange(136, dtype=np.float32).reshape(68, 2),
        np.asfortranarray(np.arange(6).reshape(2, 3)[:, :1]),
    ],
    ids=lambda array: f"{array.dtype.str}{array.shape}",
)
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_the_same_as_numpy(tmp_path: Path, array: np.ndarray, version: tuple[int, int]) -> None:
    path = tmp_path / "a.npy"
    with path.open("wb") as stream:
        np.lib.format.write_array(stream, array, version=version)
    read = load_small(str(path))
    assert read.dtype == array.dtype
    assert read.tolist() == np.load(path).ravel().tolist()


def test_every_cut_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.array("12"))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"a\.npy: "):
            load_small(str(path))


def test_every_flipped_header_byte_is_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.arange(3.0))
    whole = path.read_bytes()
    for position in range(128):
        for flip in (0x01, 0x20, 0x80):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ flip]) + whole[position + 1 :])
            try:
                assert load_small(str(path)).nbytes == 24
            except DataError as error:
                assert "\n" not in str(error)


@pytest.mark.parametrize(
    "array",
    [np.array([{}], dtype=object), np.zeros(3, dtype=[("a", "f4")]), np.zeros(9000)],
    ids=["object", "record", "big"],
)
def test_what_is_no_small_array_of_numbers(tmp_path: Path, array: np.ndarray) -> None:
    path = tmp_path / "a.npy"
    np.save(path, array, allow_pickle=True)
    with pytest.raises(DataError, match=r"a\.npy: "):
        load_small(str(path))


def test_many_come_in_order_and_the_first_error_ends_it(tmp_path: Path) -> None:
    paths = []
    for number in range(700):
        paths.append(str(tmp_path / f"{number}.npy"))
        np.save(paths[-1], np.array(number))
    assert list(load_each(paths, lambda path: int(load_small(path)[0]))) == list(range(700))
    with pytest.raises(DataError, match=r"missing\.npy: cannot read: No such file"):
        list(load_each([*paths[:300], str(tmp_path / "missing.npy")], load_small))
    assert list(load_each([], load_small)) == []


def test_frame_sizes_of_mp4_files(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    for data, expected in ((video(1), (SIZE, SIZE)), (wide(), (64, SIZE)), (avi(1), None), (b"", None)):
        path.write_bytes(data)
        assert frame_size(path) == expected
    assert frame_size(tmp_path / "b.mp4") is None


def test_cut_and_changed_mp4_files_have_a_size_or_none(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    whole = wide()
    generator = np.random.default_rng(0)
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        frame_size(path)
    for _ in range(300):
        data = bytearray(whole)
        for position in generator.integers(0, len(whole), 8):
            data[position] = int(generator.integers(256))
        path.write_bytes(data)
        size = frame_size(path)
        assert size is None or (len(size) == 2 and all(0 < side < 1 << 16 for side in size))
