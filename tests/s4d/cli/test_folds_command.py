"""`s4d folds`: which folds are trained, what becomes of one that fails, and two real ones."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "engine"))

from engine_project import run_values, write_media

from s4d.analysis.folds.runs import default_folder, fold_run, shared_name
from s4d.analysis.predictions import Predictions, predictions_npz
from s4d.cli import main
from s4d.cli.folds import parse_folds
from s4d.config import load, save
from s4d.errors import DataError, UsageError

ROOT = Path(__file__).parents[3]
CLASSES = ("fear", "happy")


class Trainer:
    """Stands for the training processes: leaves a finished run, or fails on the folds it is told to."""

    def __init__(self) -> None:
        self.trained: list[int] = []
        self.fails: set[int] = set()

    def __call__(self, config: Path, overrides: Sequence[str], run_dir: Path, **limits: Any) -> None:
        resolved = load(config, [*overrides, f"run_dir={json.dumps(str(run_dir))}"])
        fold = resolved.data.sources[1].fold
        assert fold is not None
        self.trained.append(fold)
        if fold in self.fails:
            raise DataError(f"{run_dir}.log: rank 0 ended with status 1")
        leave_run(run_dir, fold)
        save(resolved, run_dir / "config.yaml")


def leave_run(run_dir: Path, fold: int) -> None:
    """What a run leaves: one clip of each class, the first always right, the second in odd folds."""
    run_dir.mkdir(parents=True)
    logits = np.zeros((2, 1, 2), dtype=np.float32)
    logits[:, 0, 0] = 1
    logits[1, 0, 1] = 2 * (fold % 2)
    head = Predictions(
        source="clips",
        modality="video",
        split="test",
        classes=CLASSES,
        sample_ids=(f"{fold}-0", f"{fold}-1"),
        labels=np.array([0, 1], dtype=np.int64),
        logits=logits,
    )
    (run_dir / "predictions.npz").write_bytes(predictions_npz([head]))
    (run_dir / "finished.json").write_text("{}")


def folded(root: Path, folds: Sequence[int]) -> Path:
    """Turn the clips of a tiny project into folds, each with another test clip, and write `all.yaml`."""
    lines = (root / "clips.csv").read_text().splitlines()[1:]
    rows = ["sample_id,path,label,split,kind,fold"]
    for fold in folds:
        for number, line in enumerate(lines):
            path, label, _, kind = line.split(",")
            split = "test" if number % len(folds) == folds.index(fold) else "train"
            rows.append(f"{path},{path},{label},{split},{kind},{fold}")
    (root / "clips.csv").write_text("\n".join(rows) + "\n")
    values = run_values(root, root / "runs" / "fold_1")
    values["name"] = "tiny-fold1"
    values["data"]["sources"][1]["fold"] = folds[0]
    config = root / "all.yaml"
    config.write_text(json.dumps(values))
    return config


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Trainer:
    stand_in = Trainer()
    monkeypatch.setattr("s4d.cli.training_process.train_run", stand_in)
    return stand_in


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "clips.csv").write_text(
        "path,label,split,kind\n" + "".join(f"clips/{n},{CLASSES[n % 2]},train,frames\n" for n in range(6))
    )
    return folded(tmp_path, (1, 2, 3))


def table(out: Path) -> dict[str, Any]:
    return json.loads((out / "folds.json").read_text())


def test_all_folds_of_the_manifest_are_trained_once(trainer: Trainer, config: Path, tmp_path: Path) -> None:
    assert main(["folds", str(config)]) == 0
    assert trainer.trained == [1, 2, 3]
    document = table(tmp_path / "runs")
    assert (document["name"], document["missing"]) == ("tiny", {})
    assert [row["uar"] for row in document["tables"][0]["folds"]] == [1.0, 0.5, 1.0]
    assert load(tmp_path / "runs/fold_3/config.yaml").name == "tiny-fold3"
    assert main(["folds", str(config)]) == 0
    assert trainer.trained == [1, 2, 3]


def test_a_fold_that_fails_is_named_and_the_others_are_kept(
    trainer: Trainer, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer.fails = {2}
    assert main(["folds", str(config)]) == 1
    told = capsys.readouterr()
    assert "1 of 3 folds are missing: fold 2: " in told.err and "rank 0 ended with status 1" in told.err
    document = table(tmp_path / "runs")
    assert [row["fold"] for row in document["tables"][0]["folds"]] == [1, 3]
    assert list(document["missing"]) == ["2"]
    assert "Missing: fold 2 (" in (tmp_path / "runs/folds.md").read_text()
    trainer.fails = set()
    assert main(["folds", str(config), "--json"]) == 0
    assert trainer.trained == [1, 2, 3, 2]
    assert json.loads(capsys.readouterr().out) == table(tmp_path / "runs")
    assert table(tmp_path / "runs")["missing"] == {}


def test_the_table_alone_is_made_from_what_is_there(
    trainer: Trainer, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["folds", str(config), "--table-only"]) == 1
    assert "3 of 3 folds are missing: fold 1: not run" in capsys.readouterr().err
    assert main(["folds", str(config), "--folds", "3", "--out", str(tmp_path / "mine")]) == 0
    (tmp_path / "mine/fold_2").mkdir()
    assert main(["folds", str(config), "--table-only", "--out", str(tmp_path / "mine")]) == 0
    assert trainer.trained == [3]
    assert table(tmp_path / "mine")["missing"] == {"1": "not run", "2": "not finished"}


def test_a_finished_fold_with_other_settings_is_not_taken_for_done(
    trainer: Trainer, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["folds", str(config), "--folds", "1"]) == 0
    assert main(["folds", str(config), "optim.lr=0.5", "--folds", "1,2"]) == 1
    told = capsys.readouterr().err
    assert "finished with other settings: optim.lr: 0.001 -> 0.5" in told
    assert trainer.trained == [1, 2]
    assert main(["folds", str(config), "--table-only", "--folds", "1,2"]) == 2
    assert "trained with other settings than fold 1: optim.lr: 0.001 -> 0.5" in capsys.readouterr().err


def test_a_run_of_another_fold_in_the_folder_is_refused(
    trainer: Trainer, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["folds", str(config), "--folds", "1"]) == 0
    (tmp_path / "runs/fold_1").rename(tmp_path / "runs/fold_2")
    assert main(["folds", str(config), "--table-only"]) == 2
    assert "fold_2/config.yaml: data.sources.1.fold: is 1, not 2" in capsys.readouterr().err


def test_a_finished_fold_without_predictions_says_how_to_get_them(trainer: Trainer, config: Path) -> None:
    assert main(["folds", str(config)]) == 0
    out = config.parent / "runs"
    (out / "fold_2/predictions.npz").unlink()
    assert main(["folds", str(config), "--table-only"]) == 0
    assert "`s4d evaluate " in table(out)["missing"]["2"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["data.sources.1.fold=null"], "no source names its fold"),
        (["--folds", "1,x"], "--folds: expected numbers such as 1,2,3, got '1,x'"),
        (["--folds", "1,1"], "--folds: a fold is given twice in '1,1'"),
        (["--out", "{root}/taken"], "is a run itself"),
    ],
)
def test_wrong_usage(
    arguments: list[str], words: str, config: Path, trainer: Trainer, capsys: pytest.CaptureFixture[str]
) -> None:
    root = config.parent
    (root / "taken").mkdir()
    (root / "taken/config.yaml").write_text("{}")
    assert main(["folds", str(config), *(word.format(root=root) for word in arguments)]) == 2
    assert words in capsys.readouterr().err
    assert not trainer.trained


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs/finetune").glob("*_vit_base_*f*w_*.yaml")), ids=lambda p: p.stem
)
def test_the_configurations_with_folds_are_made_for_this(path: Path) -> None:
    """Their one fold is where it would lie had this command trained it."""
    shipped = load(path)
    first = fold_run(shipped, 1, default_folder(shipped))
    assert (str(first.path), shared_name(shipped) + "-fold1") == (shipped.run_dir, shipped.name)
    assert load(path, list(first.overrides)) == shipped
    third = load(path, list(fold_run(shipped, 3, default_folder(shipped)).overrides))
    assert (third.data.sources[1].fold, third.name) == (3, shared_name(shipped) + "-fold3")


def test_folds_are_numbers_in_order() -> None:
    assert parse_folds("3, 1,10") == (1, 3, 10)
    with pytest.raises(UsageError, match="expected numbers"):
        parse_folds("")


@pytest.mark.deep
@pytest.mark.launch
def test_two_real_folds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Trained by the engine as two ranks, tested, put into a table; called again, nothing is trained."""
    write_media(tmp_path)
    command = ["folds", str(folded(tmp_path, (1, 2))), "engine.steps=2", "engine.save_every=2", "optim.ema=null"]
    assert main([*command, "--json"]) == 0, capsys.readouterr().err
    out = tmp_path / "runs"
    document = json.loads(capsys.readouterr().out)
    assert document == table(out) and document["missing"] == {}
    clips, stills = sorted(document["tables"], key=lambda head: head["source"])
    for fold, row in zip((1, 2), clips["folds"], strict=True):
        scores = json.loads((out / f"fold_{fold}/evaluation.json").read_text())["sources"]["clips"]
        assert (row["uar"], row["confusion"]) == (pytest.approx(scores["uar"]), scores["confusion"])
    assert clips["pooled"]["samples"] == 8
    assert np.array(clips["pooled"]["confusion"]).sum(1).tolist() == [2, 3, 3]
    assert stills["pooled"] is None
    before = {path: path.stat().st_mtime_ns for path in out.glob("fold_*/*")}
    assert main(command) == 0
    assert before == {path: path.stat().st_mtime_ns for path in out.glob("fold_*/*")}
