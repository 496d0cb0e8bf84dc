"""Hostfiles and `.deepspeed_env`: what DeepSpeed would stumble over is told before."""

from __future__ import annotations

from pathlib import Path

import pytest

from s4d.errors import UsageError
from s4d.hostfile import Host, read_exported, read_exports, read_hostfile


def test_hosts_in_order(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("# two machines\nnode-b slots=8\n\n10.0.0.7   slots=4  # the old one\n")
    assert read_hostfile(tmp_path / "hosts") == [Host(name="node-b", slots=8), Host(name="10.0.0.7", slots=4)]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a slots=1\nb\n", ":2: 'b': expected a host like"),
        ("a slots=0\n", ":1: 'a slots=0': expected"),
        ("-oProxyCommand=x slots=1\n", ":1: '-oProxyCommand=x slots=1'"),
        ("a;b slots=1\n", ":1: "),
        ("a slots=1\na slots=2\n", ":2: a is listed twice"),
        ("# none\n", "names no host"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, text: str, part: str) -> None:
    (tmp_path / "hosts").write_text(text)
    with pytest.raises(UsageError, match="hosts") as caught:
        read_hostfile(tmp_path / "hosts")
    assert part in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_hostfile(tmp_path / "absent")


def test_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    assert read_exported() == {}
    (home / ".deepspeed_env").write_text("A=1\nB=x=y\n")
    (here / ".deepspeed_env").write_text("A=2\n")
    assert read_exported() == {"A": "2", "B": "x=y"}
    (here / ".deepspeed_env").write_text("A=2\n\nC=3\n")
    with pytest.raises(UsageError, match=r":2: '': every line must be NAME=value"):
        read_exports(here / ".deepspeed_env")
