"""Two runs side by side: matched by sample and class name, with the numbers of a case counted by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from s4d.analysis.paired_runs import compare_runs
from s4d.analysis.predictions import Predictions, predictions_npz
from s4d.cli import main
from s4d.errors import DataError, UsageError

CLASSES = ("anger", "fear", "joy")
# Sample -> true class, what run A says, what run B says.
CASE = {
    "s1": ("anger", "anger", "anger"),
    "s2": ("anger", "joy", "anger"),
    "s3": ("fear", "fear", "joy"),
    "s4": ("fear", "joy", "fear"),
    "s5": ("joy", "anger", "joy"),
    "s6": ("joy", "joy", "joy"),
}


def head(
    said: dict[str, tuple[str, str]], classes: tuple[str, ...] = CLASSES, source: str = "clips", **changes: str
) -> Predictions:
    """Predictions of one view, sure to e : 1 : 1; `said` has the true and the predicted class of each sample."""
    logits = np.zeros((len(said), 1, len(classes)), dtype=np.float32)
    for row, (_, predicted) in enumerate(said.values()):
        logits[row, 0, classes.index(predicted)] = 1
    values = {"source": source, "modality": "video", "split": "test", **changes}
    return Predictions(
        classes=classes,
        sample_ids=tuple(said),
        labels=np.array([classes.index(true) for true, _ in said.values()], dtype=np.int64),
        logits=logits,
        **values,
    )


def write(folder: Path, *heads: Predictions) -> Path:
    folder.mkdir()
    (folder / "predictions.npz").write_bytes(predictions_npz(heads))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """A and B; B has its classes and samples in another order."""
    first = head({name: (true, a) for name, (true, a, _) in CASE.items()})
    second = head({name: (true, b) for name, (true, _, b) in reversed(CASE.items())}, ("joy", "anger", "fear"))
    return write(tmp_path / "a", first), write(tmp_path / "b", second)


def test_numbers_by_hand(runs: tuple[Path, Path]) -> None:
    (found,) = compare_runs(*runs)
    assert (found.source, found.samples, found.only_first, found.only_second) == ("clips", 6, 0, 0)
    assert (found.first.uar.value, found.first.war.value) == (0.5, 0.5)
    assert (found.second.uar.value, found.second.war.value) == pytest.approx((5 / 6, 5 / 6))
    assert [recall.value for recall in found.gain.recall if recall] == [0.5, 0.0, 0.5]
    assert found.gain.uar.value == pytest.approx(1 / 3)
    assert (found.test.first_only, found.test.second_only) == (1, 3)
    assert found.test.p_value == pytest.approx(2 * (1 + 4) / 16)
    sure = np.e / (np.e + 2)
    assert [each.confidence for each in found.calibration] == pytest.approx([sure, sure], abs=1e-6)
    assert [each.expected_error for each in found.calibration] == pytest.approx([sure - 0.5, 5 / 6 - sure], abs=1e-6)


def test_a_run_gains_nothing_over_itself(runs: tuple[Path, Path]) -> None:
    (found,) = compare_runs(runs[0], runs[0] / "predictions.npz")
    assert (found.gain.uar.low, found.gain.uar.value, found.gain.uar.high) == (0.0, 0.0, 0.0)
    assert found.test.p_value == 1.0


def test_samples_of_one_run_alone_are_counted_and_left_out(tmp_path: Path) -> None:
    first = write(tmp_path / "a", head({"x": ("joy", "joy"), "y": ("fear", "joy"), "z": ("fear", "joy")}))
    second = write(tmp_path / "b", head({"y": ("fear", "fear"), "w": ("joy", "joy")}))
    (found,) = compare_runs(first, second)
    assert (found.samples, found.only_first, found.only_second) == (1, 2, 1)
    assert (found.first.war.value, found.second.war.value) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (
            head({"x": ("fear", "joy")}),
            "b/predictions.npz: clips: labels: sample 'x' is 'fear', but 'joy' in the first",
        ),
        (head({"other": ("joy", "joy")}), "clips: sample_ids: no sample of the first run"),
        (head({"x": ("joy", "joy")}, ("fear", "joy")), "clips: classes: 'anger' is a class of one run alone"),
        (head({"x": ("joy", "joy")}, split="val"), "clips: split: 'val', but 'test' in the first run"),
        (head({"x": ("joy", "joy")}, source="stills"), "has no source of"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused(tmp_path: Path, second: Predictions, words: str) -> None:
    first = write(tmp_path / "a", head({"x": ("joy", "joy")}))
    with pytest.raises(DataError) as caught:
        compare_runs(first, write(tmp_path / "b", second))
    assert words in str(caught.value)


def test_one_source_on_request(tmp_path: Path) -> None:
    heads = [head({"x": ("joy", "joy")}), head({"i": ("joy", "fear")}, source="stills", modality="image")]
    first, second = write(tmp_path / "a", *heads), write(tmp_path / "b", *heads)
    assert [each.source for each in compare_runs(first, second)] == ["clips", "stills"]
    assert [each.source for each in compare_runs(first, second, "stills")] == ["stills"]
    with pytest.raises(UsageError, match=r"a/predictions.npz: has no source 'faces' \(sources: clips, stills\)"):
        compare_runs(first, second, "faces")


def test_the_command_prints_a_table_or_json(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(run) for run in runs]
    assert main(["analyze", "compare", *paths]) == 0
    told = capsys.readouterr().out
    assert "clips (video, test split): 6 samples in both runs" in told
    assert "+0.3333" in told and "A alone is right on 1, B alone on 3, p = 0.625" in told
    assert main(["analyze", "compare", *paths, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)["sources"]["clips"]
    assert document["gain"]["uar"]["value"] == pytest.approx(1 / 3)
    assert document["gain"]["recall"]["anger"]["value"] == 0.5
    assert document["first"]["calibration"]["mean_confidence"] == pytest.approx(np.e / (np.e + 2), abs=1e-6)


def test_a_run_without_predictions_is_named(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    (runs[1] / "predictions.npz").unlink()
    assert main(["analyze", "compare", *map(str, runs)]) == 1
    told = capsys.readouterr().err
    assert f"{runs[1] / 'predictions.npz'}: no such file; `s4d evaluate {runs[1]} --out FOLDER`" in told
