"""What a checkpoint says of its weights: scores of these very weights alone, those of the end of a run included."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from small_run import COMMIT, SmallRun

from engine.checkpoint_files import damages
from engine.errors import SaveError


class Scored:
    """The description of a task that keeps its last evaluation."""

    def __init__(self, run: SmallRun) -> None:
        self.run = run
        self.metrics: dict[str, Any] | None = None
        run.task.describe = self.describe  # type: ignore[method-assign]

    def describe(self) -> dict[str, Any]:
        return {"stage": "small", **({"metrics": self.metrics} if self.metrics else {})}

    def evaluate(self, split: str) -> None:
        self.metrics = {"split": split}
        self.run.checkpoints.scored(self.run.step, {"uar": 0.5})


def written(folder: Path, step: int) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / f"checkpoints/step-{step:08d}/config.json").read_text())
    return content


def saved(small: SmallRun) -> Path:
    """One step and its checkpoint."""
    small.advance()
    small.save()
    small.checkpoints.wait()
    return small.folder / "checkpoints/step-00000001"


@pytest.fixture
def run(tmp_path: Path) -> tuple[SmallRun, Scored]:
    small = SmallRun(tmp_path / "run", width=4)
    return small, Scored(small)


def test_scores_are_those_of_the_step(run: tuple[SmallRun, Scored]) -> None:
    small, scored = run
    for step in (1, 2):
        small.advance()
        if step == 1:
            scored.evaluate("val")
        small.save()
        small.checkpoints.wait()
    assert written(small.folder, 1) == {
        "stage": "small",
        "step": 1,
        "metrics": {"step": 1, "split": "val"},
        "commit": COMMIT,
    }
    assert written(small.folder, 2) == {"stage": "small", "step": 2, "commit": COMMIT}


def test_the_last_checkpoint_gets_the_final_scores(run: tuple[SmallRun, Scored]) -> None:
    small, scored = run
    small.advance()
    scored.evaluate("val")
    small.save()
    small.checkpoints.wait()
    folder = small.folder / "checkpoints/step-00000001"
    tensors = {name: os.stat(folder / name).st_ino for name in ("model.safetensors", "optimizer.safetensors")}
    scored.metrics = {"split": "test"}
    small.checkpoints.describe_again(1)
    assert written(small.folder, 1)["metrics"] == {"step": 1, "split": "test"}
    assert not list(damages(folder))
    assert sorted(path.name for path in folder.parent.iterdir()) == ["latest", "step-00000001"]
    # The same files, not copies of them.
    assert tensors == {name: os.stat(folder / name).st_ino for name in tensors}
    other = SmallRun(small.folder, width=4)
    assert other.load() == 1 and other.sums() == small.sums()


def test_nothing_is_published_again_without_scores_or_a_checkpoint(run: tuple[SmallRun, Scored]) -> None:
    small, scored = run
    folder = saved(small)
    before = os.stat(folder).st_ino
    small.checkpoints.describe_again(1)
    assert os.stat(folder).st_ino == before
    scored.metrics = {"split": "test"}
    small.checkpoints.describe_again(7)
    assert not (folder.parent / "step-00000007").exists()


@pytest.mark.parametrize("place", ["mkdir", "link", "rename"])
def test_a_disk_that_refuses_costs_the_scores_alone(
    run: tuple[SmallRun, Scored], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    small, scored = run
    folder = saved(small)
    scored.metrics = {"split": "test"}

    def refuse(*names: object, **options: object) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patched:
        patched.setattr(os, place, refuse)
        with pytest.raises(
            SaveError, match=r"step-00000001: cannot write the checkpoint: Permission denied; \d+ bytes"
        ):
            small.checkpoints.describe_again(1)
    assert "metrics" not in written(small.folder, 1) and not list(damages(folder))
    assert sorted(path.name for path in folder.parent.iterdir()) == ["latest", "step-00000001"]


def test_a_description_cut_off_between_two_names_is_made_up_for(run: tuple[SmallRun, Scored]) -> None:
    small, scored = run
    folder = saved(small)
    folder.rename(folder.with_name("step-00000001-replaced"))
    scored.metrics = {"split": "test"}
    small.checkpoints.describe_again(1)
    assert written(small.folder, 1)["metrics"] == {"step": 1, "split": "test"} and not list(damages(folder))
    assert sorted(path.name for path in folder.parent.iterdir()) == ["latest", "step-00000001"]


def test_files_are_copied_where_none_has_two_names(
    run: tuple[SmallRun, Scored], monkeypatch: pytest.MonkeyPatch
) -> None:
    small, scored = run
    folder = saved(small)
    scored.metrics = {"split": "test"}

    def refuse(*names: Path) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    small.checkpoints.describe_again(1)
    assert written(small.folder, 1)["metrics"] == {"step": 1, "split": "test"} and not list(damages(folder))
