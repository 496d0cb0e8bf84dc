from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from s4d.analysis.predictions import Predictions, mean_over_views, predictions_npz, read_predictions, view_probabilities
from s4d.errors import DataError

NAN = float("nan")


def head(**changes: object) -> Predictions:
    values: dict[str, object] = {
        "source": "clips",
        "modality": "video",
        "split": "test",
        "classes": ("calm", "glad"),
        "sample_ids": ("a", "ü/2"),
        "labels": np.array([0, 1]),
        # Log odds of 3 and of 1; the second view of the second sample could not be read.
        "logits": np.array([[[np.log(3), 0], [5, 5]], [[0, np.log(3)], [NAN, NAN]]], dtype=np.float32),
    }
    return Predictions(**{**values, **changes})  # type: ignore[arg-type]


def test_mean_over_readable_views_by_hand() -> None:
    np.testing.assert_allclose(head().probabilities, [[(0.75 + 0.5) / 2, (0.25 + 0.5) / 2], [0.25, 0.75]], rtol=1e-6)
    large = np.array([[[1000.0, 1000.0 + np.log(4)]]])
    np.testing.assert_allclose(mean_over_views(view_probabilities(large)), [[0.2, 0.8]], rtol=1e-12)


def test_round_trip(tmp_path: Path) -> None:
    image = head(source="faces", modality="image", logits=np.zeros((2, 1, 2), dtype=np.float32))
    path = tmp_path / "predictions.npz"
    path.write_bytes(predictions_npz([head(), image]))
    assert path.read_bytes() == predictions_npz([head(), image])
    found = read_predictions(path)
    assert list(found) == ["clips", "faces"]
    for name, expected in (("clips", head()), ("faces", image)):
        for field in ("source", "modality", "split", "classes", "sample_ids"):
            assert getattr(found[name], field) == getattr(expected, field)
        np.testing.assert_array_equal(found[name].labels, expected.labels)
        np.testing.assert_array_equal(found[name].logits, expected.logits)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"labels": np.array([0, 2])}, r"labels: expected 0\.\.1, got 0\.\.2"),
        ({"labels": np.array([0])}, "labels: expected"),
        ({"logits": np.zeros((2, 2, 3))}, "logits: expected"),
        ({"logits": np.full((2, 1, 2), NAN)}, "sample 'a': expected views"),
        ({"logits": np.array([[[0.0, 0.0]], [[NAN, 1.0]]])}, "sample 'ü/2': expected views"),
        ({"classes": ("calm", "calm")}, "classes: expected names that differ"),
        ({"modality": "sound"}, "modality"),
    ],
)
def test_records_are_checked(changes: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        head(**changes)


def arrays_of(head: Predictions, tmp_path: Path) -> dict[str, np.ndarray]:
    path = tmp_path / "whole.npz"
    path.write_bytes(predictions_npz([head]))
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("clips/labels", None, r"clips/labels: is missing"),
        ("clips/labels", np.array([0.0, 1.0]), r"clips/labels: unexpected type float64"),
        ("clips/labels", np.array([0, 5]), r"clips/labels: expected 0\.\.1, got 0\.\.5"),
        ("clips/logits", np.zeros((2, 2), dtype=np.float32), r"clips/logits: unexpected .* shape \(2, 2\)"),
        ("clips/sample_ids", np.array(["a", "b"], dtype=object), "not a readable npz file"),
        ("else", np.zeros(3), r"else/logits: is missing"),
    ],
)
def test_fields_of_a_file_are_checked(field: str, value: object, named: str, tmp_path: Path) -> None:
    arrays = arrays_of(head(), tmp_path)
    if value is None:
        del arrays[field]
    else:
        arrays[field] = value  # type: ignore[assignment]
    np.savez(tmp_path / "predictions.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=named) as caught:
        read_predictions(tmp_path / "predictions.npz")
    assert str(caught.value).startswith(str(tmp_path / "predictions.npz"))


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "predictions.npz"
    with pytest.raises(DataError, match=r"predictions\.npz: no such file"):
        read_predictions(path)
    whole = predictions_npz([head()])
    rng = np.random.default_rng(0)
    damaged = [b"", b"not a zip", whole[:-30], whole[: len(whole) // 2]]
    for _ in range(200):
        changed = bytearray(whole)
        changed[int(rng.integers(len(whole)))] ^= int(rng.integers(1, 256))
        damaged.append(bytes(changed))
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            read_predictions(path)
        except DataError as error:
            refused += 1
            assert str(path) in str(error) and "\n" not in str(error)
    # A few bytes of a zip file mean nothing, such as dates.
    assert refused > len(damaged) // 2
