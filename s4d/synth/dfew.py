"""DFEW's layout: one folder of JPEG frames per clip and five folds of csv files."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from s4d.synth.recipe import NUM_FOLDS, Plan, face_table, fold_of, identity_table, render_clip

FOLDER = "dfew"
# Numbered from 0, as in the lists that the S4D release ships; DFEW's own files count from 1 in the same order.
CLASS_ORDER: tuple[str, ...] = ("happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear")


def clip_name(index: int) -> str:
    """Five-digit id of clip `index`."""
    return f"{index + 1:05d}"


def write_clip(root: Path, plan: Plan, index: int) -> int:
    """Render and store the frames of clip `index`, numbered from 1; returns their number."""
    frames, quality = render_clip(plan, index)
    folder = root / FOLDER / "Clip" / "jpg_256" / clip_name(index)
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames, start=1):
        Image.fromarray(frame).save(folder / f"{number:05d}.jpg", quality=quality)
    return len(frames)


def write_folds(root: Path, plan: Plan) -> None:
    """Write train_set_K.csv, test_set_K.csv (fold K of 5: a fifth of the people), `identities.csv`, `faces.csv`."""
    (root / FOLDER).mkdir(parents=True, exist_ok=True)
    people = {clip_name(index): plan.person(index) for index in range(plan.clips)}
    (root / FOLDER / "identities.csv").write_text(identity_table(people), encoding="utf-8")
    (root / FOLDER / "faces.csv").write_text(face_table(plan, "clip", people), encoding="utf-8")
    for fold in range(1, NUM_FOLDS + 1):
        lines: dict[str, list[str]] = {"train": [], "test": []}
        for index in range(plan.clips):
            split = "test" if fold_of(plan.person(index)) == fold else "train"
            lines[split].append(f"{clip_name(index)},{CLASS_ORDER.index(plan.label(index))}\n")
        for split, rows in lines.items():
            folder = root / FOLDER / "EmoLabel_DataSplit" / f"{split}(single-labeled)"
            folder.mkdir(parents=True, exist_ok=True)
            text = "video_name,label\n" + "".join(rows)
            (folder / f"{split}_set_{fold}.csv").write_text(text, encoding="utf-8")
