"""Folders of media: what is found, which links are followed, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from s4d.data.media import IMAGE_SUFFIXES
from s4d.datasets.tree import Clip, MediaFolder, media_folder
from s4d.errors import DataError, UsageError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def test_what_lies_where(tmp_path: Path) -> None:
    media = MediaFolder(
        touch(tmp_path, "a/1.jpg", "a/2.JPG", "a/.hidden.jpg", "a/x.txt", "__MACOSX/a/._1.jpg", "b.mp4", "c/d/1.png")
    )
    assert [media.what(path) for path in ("a", "a/1.jpg", "a/3.jpg", "b.mp4", "b.mp4/x", "no/no")] == [
        "folder",
        "file",
        None,
        "file",
        None,
        None,
    ]
    assert media.subfolders() == ["a", "c"]
    assert media.files(IMAGE_SUFFIXES, "a") == ["1.jpg", "2.JPG"]
    assert list(media.walk(IMAGE_SUFFIXES)) == ["a/1.jpg", "a/2.JPG", "c/d/1.png"]
    assert [media.clip(path) for path in ("a", "b.mp4", "a/1.jpg", "a/x.txt", "gone")] == [
        Clip("a", "frames", 2),
        Clip("b.mp4", "video"),
        Clip("a/1.jpg", "image", 1),
        None,
        None,
    ]


def test_each_folder_is_listed_once_and_no_file_is_asked_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million files must not cost a million calls of the system."""
    media = MediaFolder(touch(tmp_path, *(f"{folder}/{i}.jpg" for folder in "ab" for i in range(50))))
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(str(path)) or scandir(path))
    for name in ("stat", "lstat"):
        monkeypatch.setattr(os, name, lambda path, *rest, **more: pytest.fail(f"asked about {path}"))
    found = [media.what(f"{folder}/{i}.jpg") for folder in "ab" for i in range(50)]
    assert found == ["file"] * 100
    assert media.files(IMAGE_SUFFIXES, "a") and media.subfolders() == ["a", "b"]
    assert sorted(listed) == [str(tmp_path), str(tmp_path / "a"), str(tmp_path / "b")]


def test_links_within_the_folder_are_followed(tmp_path: Path) -> None:
    touch(tmp_path, "real/1.jpg")
    (tmp_path / "alias").symlink_to("real")
    (tmp_path / "one.jpg").symlink_to(tmp_path / "real/1.jpg")
    (tmp_path / "gone").symlink_to("nowhere")
    media = MediaFolder(tmp_path)
    assert [media.what(path) for path in ("alias", "alias/1.jpg", "one.jpg", "gone")] == [
        "folder",
        "file",
        "file",
        None,
    ]
    assert media.subfolders() == ["alias", "real"]
    assert media.clip("alias") == Clip("alias", "frames", 1)


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    touch(tmp_path, "disk/a/1.jpg")
    (tmp_path / "data").symlink_to("disk")
    assert MediaFolder(tmp_path / "data").clip("a") == Clip("a", "frames", 1)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("../outside", "a symbolic link that leads outside"),
        ("../media-2", "a symbolic link that leads outside"),
        ("loop", "a loop of symbolic links"),
        (".", "a symbolic link to a folder that it lies in"),
    ],
)
def test_links_that_lead_astray(tmp_path: Path, target: str, message: str) -> None:
    touch(tmp_path, "outside/1.jpg", "media-2/1.jpg", "media/a/1.jpg")
    (tmp_path / "media/loop").symlink_to(target)
    media = MediaFolder(tmp_path / "media")
    assert media.what("a/1.jpg") == "file"
    for ask in (lambda: media.what("loop"), lambda: list(media.walk(IMAGE_SUFFIXES)), media.clip_names):
        with pytest.raises(DataError) as caught:
            ask()
        assert str(caught.value).startswith(f"{tmp_path / 'media/loop'}: ") and message in str(caught.value)


def test_a_link_upwards_is_found_in_depth(tmp_path: Path) -> None:
    touch(tmp_path, "a/b/1.jpg")
    (tmp_path / "a/b/up").symlink_to(tmp_path / "a")
    with pytest.raises(DataError, match=r"a/b/up: a symbolic link to a folder that it lies in"):
        list(MediaFolder(tmp_path).walk(IMAGE_SUFFIXES))


@pytest.mark.parametrize("name", [b"caf\xe9.jpg", b"a\nb.jpg", b"a\x1bb.jpg"])
def test_names_that_no_manifest_could_hold(tmp_path: Path, name: bytes) -> None:
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))).touch()
    with pytest.raises(DataError, match="control characters or bytes that are not UTF-8") as caught:
        MediaFolder(tmp_path).entries()
    assert str(caught.value).isprintable()


def test_folders_without_frames(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    media = MediaFolder(tmp_path)
    assert media.frame_count("a") == 0
    with pytest.raises(DataError, match=r"a: no frames \(image files\)"):
        media.clip("a")
    with pytest.raises(DataError, match="gone: no such folder"):
        MediaFolder(tmp_path / "gone")


def test_clips_by_stem(tmp_path: Path) -> None:
    assert MediaFolder(touch(tmp_path / "v", "1.mp4", "2.avi", "list.txt")).clip_names() == {"1": "1.mp4", "2": "2.avi"}
    assert MediaFolder(touch(tmp_path / "f", "1/1.jpg", "2/1.jpg")).clip_names() == {"1": "1", "2": "2"}
    with pytest.raises(DataError, match=r"v: two videos of one name: 1.avi and 1.mp4"):
        MediaFolder(touch(tmp_path / "v", "1.avi")).clip_names()
    with pytest.raises(DataError, match=r"f: holds folders \(1, ...\) and videos \(3.mp4, ...\)"):
        MediaFolder(touch(tmp_path / "f", "3.mp4")).clip_names()


def test_which_form_of_the_media(tmp_path: Path) -> None:
    root, candidates = touch(tmp_path, "clips/1.mp4"), ("data/frames", "data/frames/crops", "clips")
    assert media_folder(root, candidates, None, "folder of clips") == root / "clips"
    touch(root, "data/frames/1/1.jpg", "data/frames/crops/1/1.jpg")
    with pytest.raises(
        DataError, match=r"several forms of the media \(data/frames/crops, clips\): name one with --media"
    ):
        media_folder(root, candidates, None, "folder of clips")
    assert media_folder(root, candidates, "data/frames", "folder of clips") == root / "data/frames"
    assert media_folder(root, candidates[:2], None, "folder of clips") == root / "data/frames/crops"
    with pytest.raises(DataError, match=r"no folder of clips \(looked for x, y; --media FOLDER names another\)"):
        media_folder(root, ("x", "y"), None, "folder of clips")
    for wrong in ("gone", "../" + root.name, str(root / "clips")):
        with pytest.raises(UsageError, match=r"--media .*: no such folder below"):
            media_folder(root, candidates, wrong, "folder of clips")
