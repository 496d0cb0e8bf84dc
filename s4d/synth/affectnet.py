"""AffectNet's layout: hashed JPEG files in numbered folders and one list file per split."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from s4d.synth.recipe import Plan, face_table, fold_of, identity_table, render_image
from s4d.synth.streams import name_digest

FOLDER = "affectnet"
CLASS_ORDER: tuple[str, ...] = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger")
IMAGES_PER_FOLDER = 256


def image_path(plan: Plan, index: int) -> str:
    """Path of picture `index` relative to the dataset's root."""
    folder = index // IMAGES_PER_FOLDER + 1
    return f"Manually_Annotated_Images/{folder}/{name_digest(plan.seed, 'image', index)}.jpg"


def write_image(root: Path, plan: Plan, index: int) -> int:
    """Render and store picture `index`; returns the number of frames, 1."""
    picture, quality = render_image(plan, index)
    path = root / FOLDER / image_path(plan, index)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, quality=quality)
    return 1


def write_lists(root: Path, plan: Plan) -> None:
    """Write `train_affectnet7.txt` and `test_affectnet7.txt` (path, space, number), `identities.csv`, `faces.csv`."""
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for index in range(plan.images):
        split = "test" if fold_of(plan.person(index)) == 1 else "train"
        lines[split].append(f"{image_path(plan, index)} {CLASS_ORDER.index(plan.label(index))}\n")
    (root / FOLDER).mkdir(parents=True, exist_ok=True)
    for split, rows in lines.items():
        (root / FOLDER / f"{split}_affectnet7.txt").write_text("".join(rows), encoding="utf-8")
    people = {image_path(plan, index): plan.person(index) for index in range(plan.images)}
    (root / FOLDER / "identities.csv").write_text(identity_table(people), encoding="utf-8")
    (root / FOLDER / "faces.csv").write_text(face_table(plan, "image", people), encoding="utf-8")
