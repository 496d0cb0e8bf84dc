from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.errors import StateRefusedError
from engine.run_folder import RunFolder, cut_metrics, last_step

POLICY = SimpleNamespace(save_every=5, save_failures=0)


def log(run_dir: Path, steps: int) -> Path:
    path = run_dir / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step, "loss": 1.0}) + "\n" for step in range(1, steps + 1)))
    return path


def checkpoint(run_dir: Path, step: int) -> None:
    (run_dir / f"checkpoints/step-{step:08d}").mkdir(parents=True)


def test_second_owner_is_refused_until_the_first_lets_go(tmp_path: Path) -> None:
    first, second = RunFolder(tmp_path), RunFolder(tmp_path)
    first.claim()
    with pytest.raises(StateRefusedError, match=r"in use by process \d+ on"):
        second.claim()
    first.release()
    second.claim()
    second.release()


def test_empty_folder_starts_at_zero_whatever_is_asked(tmp_path: Path) -> None:
    for resume in ("auto", "never"):
        assert RunFolder(tmp_path).source(resume, POLICY) is None


def test_auto_continues_the_folder(tmp_path: Path) -> None:
    checkpoint(tmp_path, 5)
    log(tmp_path, 7)
    assert RunFolder(tmp_path).source("auto", POLICY) == tmp_path


def test_never_refuses_to_lose_progress(tmp_path: Path) -> None:
    log(tmp_path, 2)
    with pytest.raises(StateRefusedError, match="progress up to step 2; --fresh replaces it") as caught:
        RunFolder(tmp_path).source("never", POLICY)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(("steps", "failures"), [(4, 0), (10, 0), (15, 1)])
def test_run_killed_before_its_first_checkpoint_starts_over(tmp_path: Path, steps: int, failures: int) -> None:
    """The first one may still be written until the second is due, or be one that the disk was allowed to refuse."""
    log(tmp_path, steps)
    assert RunFolder(tmp_path).source("auto", SimpleNamespace(save_every=5, save_failures=failures)) is None


@pytest.mark.parametrize("evidence", ["steps", "latest", "evaluation"])
def test_lost_checkpoints_are_never_a_silent_fresh_start(tmp_path: Path, evidence: str) -> None:
    log(tmp_path, 11 if evidence == "steps" else 2)
    if evidence == "latest":
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "checkpoints/latest").write_text("step-00000005\n")
    if evidence == "evaluation":
        (tmp_path / "evaluation.json").write_text("{}")
    with pytest.raises(StateRefusedError, match="but no checkpoint in"):
        RunFolder(tmp_path).source("auto", POLICY)


def test_clear_removes_progress_and_nothing_else(tmp_path: Path) -> None:
    checkpoint(tmp_path, 5)
    log(tmp_path, 7)
    for name in ("evaluation.json", "evaluation-ema.json", "notes.txt"):
        (tmp_path / name).write_text("{}")
    RunFolder(tmp_path).clear()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_cut_drops_later_steps_and_a_torn_line(tmp_path: Path) -> None:
    path = log(tmp_path, 6)
    whole = path.read_text()
    with path.open("a") as stream:
        stream.write('{"step": 7, "lo')
    assert last_step(path) == 6
    cut_metrics(path, 4)
    assert path.read_text() == "".join(whole.splitlines(keepends=True)[:4])


def test_damaged_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "backends.json").write_text("{")
    with pytest.raises(StateRefusedError, match=r"backends.json: not JSON"):
        RunFolder(tmp_path).read_json("backends.json")
    assert RunFolder(tmp_path).read_json("absent.json") is None


def test_a_damaged_line_hides_no_progress(tmp_path: Path) -> None:
    path = log(tmp_path, 40)
    path.write_bytes(b"\0\0\0\n" + path.read_bytes() + b'{"step": 41, "lo')
    assert last_step(path) == 40
    with pytest.raises(StateRefusedError, match="progress up to step 40 but no checkpoint"):
        RunFolder(tmp_path).source("auto", POLICY)
    cut_metrics(path, 39)
    assert last_step(path) == 39 and path.read_text().count("\n") == 39
