"""What a prediction leaves behind: JSON, table and picture for each input, and one table for all of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from s4d.atomic_files import write_atomically
from s4d.inference.prediction import Prediction
from s4d.json_text import to_json

SUMMARY = "summary.csv"


def write_results(prediction: Prediction, document: Mapping[str, Any], name: str, target: Path) -> list[Path]:
    """Write `target`.csv, .png and, last, .json, which says that all is there; returns the files."""
    from s4d.inference.plot import prediction_png

    table, picture, whole = (target.with_name(f"{target.name}{suffix}") for suffix in (".csv", ".png", ".json"))
    write_atomically(table, windows_csv(prediction))
    write_atomically(picture, prediction_png(prediction, name))
    write_atomically(whole, to_json(document))
    return [whole, table, picture]


def windows_csv(prediction: Prediction) -> str:
    """One line for each window: its middle and ends in seconds, its frames, its label, a column for each class.

    A picture has one line without times, of the whole.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("time", "start", "end", "first_frame", "last_frame", "label", *prediction.classes))
    for window in prediction.windows:
        times: tuple[str, ...] = ("", "", "")
        if window.start is not None and window.end is not None:
            middle = (window.start + window.end) / 2
            times = (f"{middle:.4f}", f"{window.start:.4f}", f"{window.end:.4f}")
        label = prediction.name_of(window.probabilities)
        writer.writerow((*times, window.first, window.last, label, *_shares(window.probabilities)))
    if not prediction.windows:
        last = prediction.frame_count - 1
        writer.writerow(("", "", "", 0, last, prediction.label, *_shares(prediction.probabilities)))
    return text.getvalue()


def summary_csv(rows: Sequence[tuple[str, Prediction | str]]) -> str:
    """One line for each input: what the whole shows, or the line that says why there is no answer.

    Classes of several heads stand side by side; a cell is empty where a head has no such class.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    answers = [answer for _, answer in rows if isinstance(answer, Prediction)]
    classes = list(dict.fromkeys(name for answer in answers for name in answer.classes))
    writer.writerow(("input", "source", "frames", "label", "probability", *classes, "problem"))
    for name, answer in rows:
        if isinstance(answer, str):
            writer.writerow((name, "", "", "", "", *([""] * len(classes)), answer))
            continue
        shares = dict(zip(answer.classes, _shares(answer.probabilities), strict=True))
        cells = (shares.get(label, "") for label in classes)
        writer.writerow(
            (name, answer.source, answer.frame_count, answer.label, f"{answer.probability:.6f}", *cells, "")
        )
    return text.getvalue()


def _shares(probabilities: Sequence[float] | Any) -> list[str]:
    return [f"{value:.6f}" for value in probabilities]
