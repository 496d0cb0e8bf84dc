from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import CheckpointError, NonFiniteError, PeerFailedError, StateRefusedError
from engine.failure import report

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _no_traceback_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("S4D_TRACEBACK", raising=False)


@pytest.mark.parametrize("error", [CheckpointError("x"), StateRefusedError("x"), NonFiniteError("x")])
def test_own_errors_are_one_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(error) == error.exit_code  # type: ignore[attr-defined]
    assert capsys.readouterr().err == "error: x\n"


def test_other_ranks_name_themselves(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    report(CheckpointError("x"))
    assert capsys.readouterr().err == "error: rank 3 of 4: x\n"


def test_failure_of_another_rank_is_that_ranks_to_tell(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(PeerFailedError("rank 1 failed", 2)) == 2
    assert capsys.readouterr().err == ""


def test_unforeseen_errors_keep_their_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        _ = 1 / 0
    except ZeroDivisionError as error:
        assert report(error) == 1
    assert "Traceback" in capsys.readouterr().err


def test_lost_peer_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(RuntimeError("[pair.cc:553] Connection closed by peer [127.0.0.1]:1")) == 4
    assert capsys.readouterr().err == "error: lost contact with another rank\n"


def test_traceback_on_demand(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("S4D_TRACEBACK", "1")
    report(CheckpointError("x"))
    assert "CheckpointError: x" in capsys.readouterr().err


def test_nothing_is_left_in_the_folder_for_temporary_files(tmp_path: Path) -> None:
    # As a run does that has started data workers.
    run = (
        "from multiprocessing import forkserver; from engine.failure import leave; "
        "forkserver.ensure_running(); import os; print(len(os.listdir(os.environ['TMPDIR']))); leave(3)"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", run], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "1\n"), done.stderr
    assert not list(tmp_path.iterdir())
