"""Mean, sample deviation and pooled scores of folds, against a case counted by hand, in every kind of file."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from s4d.analysis.folds.results import FoldScores, read_folds
from s4d.analysis.folds.tables import FoldReport, csv_text, latex, markdown, write_report
from s4d.analysis.predictions import Predictions, predictions_npz, read_predictions
from s4d.errors import DataError

CLASSES = ("anger", "joy_1")
# Two folds of clips: anger 1 of 2 right and joy 2 of 2; anger 1 of 1 and joy 1 of 4. Fold by fold true, predicted.
CLIPS = {1: ([0, 0, 1, 1], [0, 1, 1, 1]), 2: ([0, 1, 1, 1, 1], [0, 0, 0, 0, 1])}
STILLS = {1: ([0, 1], [0, 0]), 2: ([0, 1], [0, 1])}


def head(source: str, labels: list[int], predicted: list[int], prefix: str = "", **changes: str) -> Predictions:
    values = {"modality": "video", "split": "test", **changes}
    logits = np.zeros((len(labels), 2, len(CLASSES)), dtype=np.float32)
    logits[np.arange(len(labels)), 0, predicted] = 1
    logits[:, 1] = np.nan
    return Predictions(
        source=source,
        classes=CLASSES,
        sample_ids=tuple(f"{prefix}{number}" for number in range(len(labels))),
        labels=np.array(labels, dtype=np.int64),
        logits=logits,
        **values,
    )


def write(folder: Path, *heads: Predictions, name: str = "predictions.npz") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(predictions_npz(heads))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> dict[int, Path]:
    """Clips are divided among the folds; stills have the same test samples in both."""
    return {
        fold: write(
            tmp_path / f"fold_{fold}",
            head("clips", *CLIPS[fold], prefix=f"{fold}-"),
            head("stills", *STILLS[fold], modality="image"),
        )
        for fold in (1, 2)
    }


@pytest.fixture
def found(runs: dict[int, Path]) -> list[FoldScores]:
    return read_folds(runs)


@pytest.fixture
def report(found: list[FoldScores]) -> FoldReport:
    return FoldReport(name="tiny & true", folds=(1, 2, 3), missing={3: "not run"}, heads=found)


def test_numbers_by_hand(found: list[FoldScores]) -> None:
    clips = found[0]
    assert (clips.source, clips.weights) == ("clips", "last")
    assert [clips.by_fold[fold].uar for fold in (1, 2)] == [0.75, 0.625]
    assert [clips.by_fold[fold].war for fold in (1, 2)] == [0.75, 0.4]
    assert (clips.mean.uar, clips.mean.war) == pytest.approx((0.6875, 0.575))
    assert (clips.deviation.uar, clips.deviation.war) == pytest.approx((0.125 / 2**0.5, 0.35 / 2**0.5))
    assert clips.mean.recall == pytest.approx((0.75, 0.625))
    assert clips.deviation.recall == pytest.approx((0.5 / 2**0.5, 0.75 / 2**0.5))
    assert clips.pooled is not None
    assert clips.pooled.scores.confusion.tolist() == [[2, 1], [3, 3]]
    assert clips.pooled.scores.uar == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert clips.pooled.scores.war == pytest.approx(5 / 9)
    interval = clips.pooled.intervals.uar
    assert interval.value == pytest.approx(clips.pooled.scores.uar)
    assert interval.low < interval.value < interval.high


def test_folds_with_the_same_samples_are_not_pooled(found: list[FoldScores]) -> None:
    stills = found[1]
    assert stills.pooled is None
    assert stills.not_pooled == "folds 1 and 2 share test samples, the first is '0'"
    assert (stills.mean.uar, stills.deviation.uar) == pytest.approx((0.75, 0.5 / 2**0.5))


def test_one_fold_has_no_deviation(runs: dict[int, Path]) -> None:
    clips = read_folds({2: runs[2]})[0]
    assert (clips.mean.uar, clips.deviation.uar, clips.deviation.recall) == (0.625, None, (None, None))


def test_a_class_missing_from_a_fold_is_averaged_over_the_others(tmp_path: Path) -> None:
    runs = {
        1: write(tmp_path / "1", head("clips", [0, 1], [0, 1], "1-")),
        2: write(tmp_path / "2", head("clips", [0, 0], [0, 1], "2-")),
    }
    clips = read_folds(runs)[0]
    assert clips.mean.recall == (0.75, 1.0)
    assert clips.deviation.recall[1] is None
    assert clips.mean.uar == 0.75


def test_averaged_weights_have_a_table_of_their_own(runs: dict[int, Path]) -> None:
    for fold, path in runs.items():
        write(path, head("clips", [0, 1], [0, 1], f"{fold}-"), name="predictions-ema.npz")
    assert [(each.source, each.weights, each.mean.uar) for each in read_folds(runs)] == [
        ("clips", "last", 0.6875),
        ("stills", "last", 0.75),
        ("clips", "ema", 1.0),
    ]


def test_markdown(report: FoldReport) -> None:
    lines = markdown(report).split("\n")
    assert lines[0] == "# tiny & true"
    assert lines[2] == "Folds 1, 2 of 1, 2, 3. Missing: fold 3 (not run)."
    assert "| 1 | 4 | 50.00 | 100.00 | 75.00 | 75.00 |" in lines
    assert "| mean |  | 75.00 | 62.50 | 68.75 | 57.50 |" in lines
    assert "| standard deviation |  | 35.36 | 53.03 | 8.84 | 24.75 |" in lines
    assert "| pooled | 9 | 66.67 | 50.00 | 58.33 | 55.56 |" in lines
    assert "| joy_1 | 3 | 3 |" in lines
    assert "Not pooled: folds 1 and 2 share test samples, the first is '0'." in lines


def test_latex_is_escaped_and_complete(report: FoldReport) -> None:
    lines = latex(report).split("\n")
    assert lines[:2] == [
        "% needs \\usepackage{booktabs}",
        "% tiny & true: Folds 1, 2 of 1, 2, 3. Missing: fold 3 (not run).",
    ]
    assert "Fold & Samples & anger & joy\\_1 & UAR & WAR \\\\" in lines
    assert "pooled & 9 & 66.67 & 50.00 & 58.33 & 55.56 \\\\" in lines
    assert lines.count("\\begin{tabular}{lrrrrr}") == lines.count("\\end{tabular}") == 2
    assert lines.count("\\toprule") == lines.count("\\bottomrule") == 2
    assert lines.count("\\midrule") == 4


def test_csv(report: FoldReport) -> None:
    rows = list(csv.DictReader(csv_text(report).splitlines()))
    summary = ["1", "2", "mean", "standard deviation"]
    assert [row["fold"] for row in rows] == [*summary, "pooled", *summary]
    assert float(rows[3]["uar"]) == pytest.approx(0.125 / 2**0.5, abs=1e-6)
    assert (rows[2]["samples"], rows[4]["samples"], float(rows[4]["recall joy_1"])) == ("", "9", 0.5)


def test_all_files_are_written_and_the_pooled_samples_are_a_run_of_their_own(
    report: FoldReport, tmp_path: Path
) -> None:
    files = write_report(report, tmp_path / "out")
    assert [file.name for file in files] == ["folds.md", "folds.csv", "folds.tex", "folds.json", "predictions.npz"]
    document = json.loads((tmp_path / "out/folds.json").read_text())
    assert document["missing"] == {"3": "not run"}
    assert document["tables"][0]["standard_deviation"]["recall"]["anger"] == pytest.approx(0.5 / 2**0.5)
    assert document["tables"][0]["pooled"]["confusion"] == [[2, 1], [3, 3]]
    assert document["tables"][1]["pooled"] is None
    pooled = read_predictions(tmp_path / "out/predictions.npz")
    assert list(pooled) == ["clips"]
    assert pooled["clips"].labels.tolist() == [0, 0, 1, 1, 0, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (head("stills", [0], [0]), "has no source 'clips', which other folds have"),
        (head("clips", [0], [0], split="val"), "clips: split: expected 'test', got 'val'"),
        (head("clips", [0], [0], modality="image"), "clips: modality: 'image', but 'video' elsewhere"),
    ],
)
def test_folds_that_do_not_agree_are_refused(tmp_path: Path, other: Predictions, words: str) -> None:
    runs = {1: write(tmp_path / "1", head("clips", [0], [0], "x")), 2: write(tmp_path / "2", other)}
    with pytest.raises(DataError) as caught:
        read_folds(runs)
    assert words in str(caught.value) and str(tmp_path / "2") in str(caught.value)
