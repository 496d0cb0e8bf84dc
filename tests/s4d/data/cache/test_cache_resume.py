"""Caching that is killed at any point and called again ends with the very same files."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from s4d.data.cache import write
from s4d.data.cache.journal import Journal
from s4d.errors import DataError


class Fatal:
    """Ends this process as `kill -9` does, in the middle of the n-th change of a file."""

    def __init__(self, number: int) -> None:
        self.left = number

    def wrap(self, change: Callable[..., Any], half: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                half(*arguments)
                os.kill(os.getpid(), signal.SIGKILL)
            return change(*arguments, **named)

        return wrapped

    def install(self) -> None:
        pwrite = os.pwrite
        os.pwrite = self.wrap(pwrite, lambda target, data, place: pwrite(target, data[: len(data) // 2], place))
        os.fsync = self.wrap(os.fsync, lambda handle: None)
        Path.replace = self.wrap(Path.replace, lambda *paths: None)  # type: ignore[method-assign]
        Journal.append = self.wrap(Journal.append, self.half_line)  # type: ignore[method-assign]

    @staticmethod
    def half_line(journal: Journal, document: dict[str, Any]) -> None:
        journal._stream.write(b'{"path": "clips/c0')
        journal._stream.flush()


def ends_by_itself(call: Callable[[], object], number: int) -> bool:
    """Run `call` in a child that dies at change `number`; whether it was done before."""
    child = os.fork()
    if child == 0:
        try:
            Fatal(number).install()
            call()
            os._exit(0)
        finally:
            os._exit(3)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL)
    return status == 0


@pytest.mark.parametrize("every", [11, pytest.param(1, marks=pytest.mark.deep)])
def test_killed_at_a_change_of_a_file(media_tree: Path, tmp_path: Path, make_cache, content_of, every: int) -> None:
    make_cache(media_tree / "clips.csv", tmp_path / "whole")
    expected = content_of(tmp_path / "whole")
    done, number = False, 1
    while not done:
        folder = tmp_path / f"killed{number}"
        done = ends_by_itself(lambda: make_cache(media_tree / "clips.csv", folder), number)  # noqa: B023
        make_cache(media_tree / "clips.csv", folder)
        assert content_of(folder) == expected, f"killed at change {number}"
        number += every
    assert number > 60


def test_killed_again_and_again(media_tree: Path, tmp_path: Path, make_cache, content_of) -> None:
    """Each call gets a little further; finished work is not done twice."""
    make_cache(media_tree / "clips.csv", tmp_path / "whole")
    calls = 1
    while not ends_by_itself(lambda: make_cache(media_tree / "clips.csv", tmp_path / "killed"), 9):
        calls += 1
        assert calls < 40
    assert calls > 3
    assert content_of(tmp_path / "killed") == content_of(tmp_path / "whole")


def test_pixels_lost_behind_the_journal_are_written_again(
    media_tree: Path, tmp_path: Path, make_cache, content_of, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut a journal line can be there and the pixels not; a shard can be shorter than it was."""
    make_cache(media_tree / "clips.csv", tmp_path / "whole")
    monkeypatch.setattr(write, "write_index", lambda *arguments: os.kill(os.getpid(), signal.SIGKILL))
    folder = tmp_path / "cut"
    assert not ends_by_itself(lambda: make_cache(media_tree / "clips.csv", folder), 10**9)
    monkeypatch.undo()
    first, second, third = sorted(folder.glob("*.shard"))[:3]
    first.write_bytes(first.read_bytes()[:-5000])
    lost = bytearray(second.read_bytes())
    lost[8192:12288] = bytes(4096)
    second.with_name(f"{second.name}.part").write_bytes(lost)
    second.unlink()
    third.unlink()
    report = make_cache(media_tree / "clips.csv", folder)
    assert 0 < report.already_done < 14
    assert content_of(folder) == content_of(tmp_path / "whole")


def test_file_that_changed_since_is_decoded_again(tmp_path: Path, make_cache, content_of, write_clip) -> None:
    from PIL import Image

    lines = []
    for number in range(6):
        Image.new("RGB", (64, 64), (number, 0, 0)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,,train,image\n")
    (tmp_path / "m.csv").write_text("path,label,split,kind\n" + "".join(lines))
    assert not ends_by_itself(lambda: make_cache(tmp_path / "m.csv", tmp_path / "cache"), 18)
    Image.new("RGB", (96, 64), (99, 0, 0)).save(tmp_path / "1.png")
    make_cache(tmp_path / "m.csv", tmp_path / "cache")
    make_cache(tmp_path / "m.csv", tmp_path / "afresh")
    assert content_of(tmp_path / "cache") == content_of(tmp_path / "afresh")


def test_torn_journal_line_is_dropped(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        journal.append({"a": 1})
    (tmp_path / "j").write_bytes((tmp_path / "j").read_bytes() + b'{"a": ')
    with Journal(tmp_path / "j") as journal:
        assert journal.lines == [{"a": 1}]
        journal.append({"a": 2})
    with Journal(tmp_path / "j") as journal:
        assert journal.lines == [{"a": 1}, {"a": 2}]


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@pytest.mark.deep
@pytest.mark.parametrize("seed", range(2))
def test_command_killed_at_random_times(
    media_tree: Path, tmp_path: Path, make_cache, content_of, write_clip, numbered_frame, seed: int
) -> None:
    """The real command with two processes, killed soon after each step of progress; what it started ends with it."""
    rng = random.Random(seed)
    lines = []
    for number in range(12):
        write_clip(tmp_path / f"{number}.mp4", [numbered_frame(i % 50) for i in range(400 + 100 * number)])
        lines.append(f"{number}.mp4,,train,video\n")
    manifest = tmp_path / "m.csv"
    manifest.write_text("path,label,split,kind\n" + "".join(lines))
    command = [
        str(Path(sys.executable).with_name("s4d")),
        "data",
        "cache",
        str(manifest),
        "--shard-mib",
        "8",
        "--workers",
        "2",
    ]
    subprocess.run([*command, "--out", str(tmp_path / "whole")], check=True, capture_output=True, timeout=120)
    killed, status = 0, -signal.SIGKILL
    while status:
        journal = tmp_path / "killed" / ("filled.jsonl" if killed else "probed.jsonl")
        before = size_of(journal)
        process = subprocess.Popen(
            [*command, "--out", str(tmp_path / "killed")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and size_of(journal) <= before:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.03))
        process.kill()
        status = process.wait()
        assert status in (0, -signal.SIGKILL)
        killed += status != 0
    assert killed > 2
    assert content_of(tmp_path / "killed") == content_of(tmp_path / "whole")


def test_unfinished_cache_is_refused(media_tree: Path, tmp_path: Path, make_cache) -> None:
    from s4d.data.cache.read import open_cache

    assert not ends_by_itself(lambda: make_cache(media_tree / "clips.csv", tmp_path / "cache"), 20)
    with pytest.raises(DataError, match="unfinished cache: call `s4d data cache` again"):
        open_cache(tmp_path / "cache")
    with pytest.raises(DataError, match="no cache in this folder"):
        open_cache(tmp_path)
