"""Checkpoints written beside the training: one at a time, real copies, failures told once and to all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import SmallRun, stored_sums

from engine import checkpoint_writer
from engine.checkpoint_files import verify_checkpoint
from engine.checkpoint_retention import Retention, best_of, published, step_of
from engine.errors import NonFiniteError, SaveError, UnknownScoreError


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Writing waits until this is set."""
    opened = threading.Event()
    writing = checkpoint_writer.write_checkpoint

    def write(*arguments: Any) -> None:
        assert opened.wait(20)
        writing(*arguments)

    monkeypatch.setattr(checkpoint_writer, "write_checkpoint", write)
    return opened


def steps(run: SmallRun) -> list[int]:
    return [step_of(path) for path in published(run.folder / "checkpoints")]


def test_training_goes_on_while_a_copy_is_written(tmp_path: Path, gate: threading.Event) -> None:
    run = SmallRun(tmp_path)
    run.advance()
    live = run.sums()
    run.save()
    for _ in range(3):
        run.advance()
        run.checkpoints.settle()
    assert steps(run) == [] and run.sums() != live
    gate.set()
    run.checkpoints.wait()
    assert stored_sums(verify_checkpoint(tmp_path / "checkpoints/step-00000001")) == live


def test_the_next_save_waits_and_holds_other_bits(tmp_path: Path, gate: threading.Event) -> None:
    run = SmallRun(tmp_path)
    live = {}
    threading.Timer(0.2, gate.set).start()
    for step in (1, 2):
        run.advance()
        live[step] = run.sums()
        run.save()
    assert 1 in steps(run), "two were being written at once"
    run.checkpoints.wait()
    stored = {step: stored_sums(verify_checkpoint(tmp_path / f"checkpoints/step-{step:08d}")) for step in (1, 2)}
    assert stored == live and not set(stored[1].values()) & set(stored[2].values())


@pytest.mark.parametrize("part", ["weight", "moment", "average"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_never_published(tmp_path: Path, part: str, value: float) -> None:
    run = SmallRun(tmp_path)
    run.advance()
    weight = run.task.module.get_parameter("second.weight")
    with torch.no_grad():
        target = {
            "weight": weight,
            "moment": run.optimizer.state[weight]["exp_avg_sq"],
            "average": run.average.shards[2],
        }[part]
        target[1, 1] = value
    run.save()
    named = {"weight": "model", "moment": "optimizer", "average": "ema"}[part]
    with pytest.raises(NonFiniteError, match=rf"{named}.safetensors: tensor '.*second.weight' is not finite") as caught:
        run.checkpoints.wait()
    assert caught.value.exit_code == 5
    assert list((tmp_path / "checkpoints").iterdir()) == []


def full_disk(monkeypatch: pytest.MonkeyPatch, refusals: int) -> None:
    """The first `refusals` calls that write are refused."""
    left = [refusals]
    writing = os.write

    def write(descriptor: int, data: Any) -> int:
        if left[0] and "/checkpoints/" in os.readlink(f"/proc/self/fd/{descriptor}"):
            left[0] -= 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return writing(descriptor, data)

    monkeypatch.setattr(os, "write", write)


def test_a_refusal_ends_the_run_at_the_next_boundary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full_disk(monkeypatch, 1)
    run = SmallRun(tmp_path)
    run.advance()
    run.save()
    run.checkpoints.linger(20)
    with pytest.raises(SaveError, match=r"step-00000001: .*No space left on device; \d+ bytes needed, \d+ bytes"):
        run.checkpoints.settle()
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_allowed_refusals_are_warnings_until_there_are_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full_disk(monkeypatch, 2)
    run = SmallRun(tmp_path, save_failures=2)
    for _ in range(3):
        run.advance()
        run.save()
    run.checkpoints.wait()
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 2 and "failure 1 of 2 allowed" in warnings[0] and "step-00000002" in warnings[1]
    assert steps(run) == [3]
    full_disk(monkeypatch, 3)
    with pytest.raises(SaveError):
        for _ in range(4):
            run.advance()
            run.save()


def test_a_step_is_saved_once_unless_it_was_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = SmallRun(tmp_path, save_failures=1)
    begun = []
    for refusals in (0, 0, 1):
        run.advance()
        full_disk(monkeypatch, refusals)
        for _ in range(3):
            run.save(lambda: begun.append(run.step))
            run.checkpoints.linger(20)
            run.checkpoints.settle()
    run.checkpoints.wait()
    assert begun == [1, 2, 3, 3] and steps(run) == [3, 2]


def test_the_last_checkpoint_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full_disk(monkeypatch, 1)
    run = SmallRun(tmp_path, save_failures=5)
    run.advance()
    run.save()
    with pytest.raises(SaveError, match="step-00000001"):
        run.checkpoints.wait()


def test_the_same_step_again_is_kept_or_replaced(tmp_path: Path) -> None:
    run = SmallRun(tmp_path)
    run.advance()
    run.save()
    run.checkpoints.wait()
    folder = tmp_path / "checkpoints/step-00000001"
    inode = folder.stat().st_ino
    for change in (0, 1):
        run = SmallRun(tmp_path)
        run.load()
        with torch.no_grad():
            run.task.module.get_parameter("first.bias").add_(change)
        run.save()
        run.checkpoints.wait()
        assert (folder.stat().st_ino == inode) == (not change), "an intact checkpoint with the same content stays"
    assert stored_sums(verify_checkpoint(folder)) == run.sums()
    assert sorted(path.name for path in folder.parent.iterdir()) == ["latest", folder.name]


def test_what_a_crash_left_is_swept_when_the_run_goes_on(tmp_path: Path) -> None:
    run = SmallRun(tmp_path)
    run.advance()
    run.save()
    run.checkpoints.wait()
    folder = tmp_path / "checkpoints"
    for name in (".tmp-gone-00000000", "step-00000001-replaced"):
        shutil.copytree(folder / "step-00000001", folder / name)
    assert SmallRun(tmp_path).load() == 1
    assert sorted(path.name for path in folder.iterdir()) == ["latest", "step-00000001"]
    # The only intact one stays, whatever it is called.
    shutil.copytree(folder / "step-00000001", folder / "step-00000001-replaced")
    (folder / "step-00000001/model.safetensors").write_bytes(b"")
    again = SmallRun(tmp_path)
    assert again.load() == 1 and again.sums() == run.sums()
    assert (folder / "step-00000001-replaced").is_dir()
    again.save()
    again.checkpoints.wait()
    assert sorted(path.name for path in folder.iterdir()) == ["latest", "step-00000001"]
    verify_checkpoint(folder / "step-00000001")


def test_what_is_kept() -> None:
    keep = Retention(keep_last=2, keep_every=10, keep_best="clips.uar")
    present = range(1, 31)
    assert keep.kept(present, latest=30, best=7) == {7, 10, 20, 29, 30}
    assert keep.kept(present, latest=30, best=None) == {10, 20, 29, 30}
    # The run was taken back to step 12: what came after is of another course.
    assert keep.kept(present, latest=13, best=27) == {10, 12, 13}
    assert Retention(keep_last=1).kept([5], latest=5, best=None) == {5}


def test_the_best_is_the_earliest_of_equals() -> None:
    assert best_of({3: 0.5, 1: 0.7, 2: 0.7}) == 1
    assert best_of({1: float("nan"), 2: -1.0, 3: float("inf")}) == 2
    assert best_of({}) is None


def test_the_best_moves_and_old_ones_go(tmp_path: Path) -> None:
    run = SmallRun(tmp_path, keep_last=1, keep_best="clips.uar")
    seen = []
    for score in (0.5, 0.4, 0.8, 0.8, 0.1):
        run.advance()
        run.checkpoints.scored(run.step, {"clips.uar": score})
        run.save()
        run.checkpoints.wait()
        seen.append(((tmp_path / "checkpoints/best").read_text().strip()[-1], steps(run)))
    assert seen == [("1", [1]), ("1", [2, 1]), ("3", [3]), ("3", [4, 3]), ("3", [5, 3])]
    # A score is of its own step: a checkpoint between two evaluations has none.
    run.advance()
    run.save()
    run.checkpoints.wait()
    newest = published(tmp_path / "checkpoints")[0]
    assert json.loads((newest / "state.json").read_bytes())["scores"] == {}
    assert steps(run) == [6, 3]


def test_an_unknown_score_is_named_with_the_known_ones(tmp_path: Path) -> None:
    run = SmallRun(tmp_path, keep_best="clips.usr")
    with pytest.raises(UnknownScoreError, match=r"engine.keep_best: no score 'clips.usr' .*\(clips.uar, clips.war\)"):
        run.checkpoints.scored(1, {"clips.uar": 0.5, "clips.war": 0.5})


def test_a_run_taken_back_drops_what_came_after(tmp_path: Path) -> None:
    run = SmallRun(tmp_path, keep_last=9)
    for _ in range(4):
        run.advance()
        run.save()
    run.checkpoints.wait()
    back = SmallRun(tmp_path, keep_last=9)
    assert back.load(tmp_path / "checkpoints/step-00000002") == 2
    back.advance()
    back.save()
    back.checkpoints.wait()
    assert steps(back) == [3, 2, 1]
