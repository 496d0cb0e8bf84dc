"""`s4d data cache` as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from s4d.cli import main


def test_make_and_verify(media_tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path / "cache")
    assert main(["data", "cache", str(media_tree / "images.csv"), "--out", folder, "--workers", "0"]) == 0
    told = capsys.readouterr()
    assert "22 media, 22 frames in 1 shards of 0.2 MiB in all" in told.out
    assert "22 media, 0.2 MiB of decoded frames" in told.err
    assert main(["data", "cache", "--verify", folder]) == 0
    assert "0 damaged records" in capsys.readouterr().out

    shard = next((tmp_path / "cache").glob("*.shard"))
    content = bytearray(shard.read_bytes())
    content[-5000] ^= 1
    shard.write_bytes(content)
    assert main(["data", "cache", "--verify", folder, "--json"]) == 1
    told = capsys.readouterr()
    assert len(json.loads(told.out)["damaged"]) == 1
    assert "1 damaged records; delete this folder" in told.err


def test_left_out_media_are_named_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.jpg").touch()
    (tmp_path / "m.csv").write_text("path,label,split,kind\nbad.jpg,,train,image\n")
    command = ["data", "cache", str(tmp_path / "m.csv"), "--out", str(tmp_path / "cache"), "--workers", "0"]
    assert main(command) == 1
    assert "bad.jpg" in capsys.readouterr().err
    assert main([*command, "--on-error", "skip", "--json"]) == 0
    told = capsys.readouterr()
    assert "left out: " in told.err
    report = json.loads(told.out)
    assert (report["media"], report["frames"], len(report["left_out"])) == (1, 0, 1)


@pytest.mark.parametrize(
    "arguments", [[], ["m.csv"], ["--out", "x"], ["m.csv", "--verify", "x"], ["m.csv", "--out", "x", "--frames", "4"]]
)
def test_what_makes_no_sense_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "cache", *arguments]) == 2
    assert capsys.readouterr().err.startswith("s4d: error: ")
