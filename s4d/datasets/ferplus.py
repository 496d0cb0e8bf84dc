"""FERPlus: the images of FER2013 with the votes of ten people each, in `fer2013new.csv`.

Images are the exported ones, `FER2013Train/fer0000000.png` (FER2013Valid, FER2013Test) in the root or below `data` or
`images`; `s4d data unpack` makes them from the pixels in `fer2013.csv`. The parts Training, PublicTest and PrivateTest
are the splits train, val and test.

Two rules say which images count and what their label is; both leave out rows without an image name, and shares are
those of the eight expressions, without `unknown` and `NF` (no face):

- `ferplus`, the authors' majority rule: single votes are dropped as slips; an image is kept if more than half of the
  votes that remain, `unknown` and `NF` among them, are for one expression.
- `ferplus_votes`: every image with a vote for an expression is kept; the label has most votes, the first in the order
  of the file where several have.
"""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

from s4d.data.manifest import ManifestRow
from s4d.datasets import CLASS_NAMES
from s4d.datasets.listing import (
    identity_of,
    inner_path,
    place,
    read_identities,
    read_table,
    refuse_empty,
    refuse_missing,
)
from s4d.datasets.request import Request
from s4d.datasets.tree import MediaFolder, chosen_folder
from s4d.errors import DataError

logger = logging.getLogger(__name__)

VOTES = "fer2013new.csv"
PIXELS = ("fer2013.csv", "icml_face_data.csv")
USAGE, NAME = "Usage", "Image name"
NOT_EXPRESSIONS = ("unknown", "NF")
COLUMNS = (*CLASS_NAMES["ferplus"], *NOT_EXPRESSIONS)
# Usage -> split and folder of the exported images.
PARTS = {
    "Training": ("train", "FER2013Train"),
    "PublicTest": ("val", "FER2013Valid"),
    "PrivateTest": ("test", "FER2013Test"),
}
MEDIA = ("images", "data", "")

Shares = tuple[tuple[str, float], ...]


def prepare(root: Path, request: Request) -> list[ManifestRow]:
    """Images on which most people agree; DataError names file, line and field."""
    return _prepare(root, "ferplus", request)


def prepare_votes(root: Path, request: Request) -> list[ManifestRow]:
    """Every image with a vote for an expression; DataError names file, line and field."""
    return _prepare(root, "ferplus_votes", request)


def _prepare(root: Path, dataset: str, request: Request) -> list[ManifestRow]:
    request.refuse(dataset, "fold")
    path = root / VOTES
    lines = read_votes(path)
    base = _media(root, request)
    media = MediaFolder(root / base if base else root)
    identities = read_identities(root)
    left_out: Counter[str] = Counter()
    missing = []
    rows = []
    for line, row in lines:
        if not row[NAME]:
            left_out["without an image"] += 1
            continue
        label, shares = _decide(_counted(path, line, row), dataset)
        if label is None:
            left_out["without a majority" if dataset == "ferplus" else "without a vote for an expression"] += 1
            continue
        split, folder = PARTS[row[USAGE]]
        name = f"{folder}/{image_name(path, line, row)}"
        if media.what(name) != "file":
            missing.append((line, name))
        sample_id = name.removeprefix(f"{folder}/").removesuffix(".png")
        inside = f"{base}/{name}" if base else name
        rows.append(
            ManifestRow(
                sample_id=sample_id,
                path=inside,
                kind="image",
                dataset=dataset,
                split=split,
                label=label,
                identity=identity_of(identities, sample_id, inside),
                frame_count=1,
                distribution=shares,
            )
        )
    refuse_missing(path, missing, len(rows), NAME)
    refuse_empty(path, rows)
    if left_out:
        logger.warning("%s: left out: %s", path, ", ".join(f"{count} {why}" for why, count in left_out.items()))
    return rows


def read_votes(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Rows of the votes by line; DataError names line and field of an unknown part."""
    lines = read_table(path, required=(USAGE, NAME, *COLUMNS))
    for line, row in lines:
        if row[USAGE] not in PARTS:
            raise DataError(
                f"{place(path, line, USAGE)}: unknown part {row[USAGE]!r}, expected one of {', '.join(PARTS)}"
            )
    return lines


def image_name(path: Path, line: int, row: dict[str, str]) -> str:
    """The file an exported image is called by; DataError for another name than that of a .png file."""
    name = inner_path(row[NAME], place(path, line, NAME))
    if "/" in name or not name.removesuffix(".png") or not name.endswith(".png"):
        raise DataError(f"{place(path, line, NAME)}: {row[NAME]!r}: expected the name of a .png file")
    return name


def _media(root: Path, request: Request) -> str:
    """The folder, from the root, that holds the folders of exported images."""
    folders = [folder for _, folder in PARTS.values()]
    chosen = None if request.media is None else "/".join(chosen_folder(root, request.media).relative_to(root).parts)
    for base in MEDIA if chosen is None else (chosen,):
        if all((root / base / folder).is_dir() for folder in folders):
            return base
    pixels = next((name for name in PIXELS if (root / name).is_file()), None)
    hint = f"; {pixels} has them as pixels: `s4d data unpack {root}` writes them" if pixels else ""
    raise DataError(f"{root}: no exported images (looked for the folders {', '.join(folders)}){hint}")


def _counted(path: Path, line: int, row: dict[str, str]) -> dict[str, int]:
    votes = {}
    for name in COLUMNS:
        cell = row[name]
        if not (cell.isascii() and cell.isdecimal()) or len(cell) > 3:
            raise DataError(f"{place(path, line, name)}: expected a number of votes, got {cell!r}")
        votes[name] = int(cell)
    return votes


def _decide(votes: dict[str, int], dataset: str) -> tuple[str | None, Shares]:
    """Label, None for an image that is left out, and the expressions' shares of the votes."""
    strict = dataset == "ferplus"
    counted = {name: count if count > 1 or not strict else 0 for name, count in votes.items()}
    expressions = {name: counted[name] for name in CLASS_NAMES[dataset]}
    label = max(expressions, key=lambda name: expressions[name])
    total = sum(expressions.values())
    if not total or (strict and 2 * expressions[label] <= sum(counted.values())):
        return None, ()
    return label, tuple((name, count / total) for name, count in expressions.items())
