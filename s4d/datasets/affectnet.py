"""AffectNet with seven or eight classes, in whichever of its three forms lies under the root.

- lists of the S4D release: `train_affectnet7*.txt` and `test_*.txt` (affectnet_lists)
- the classic distribution: `training.csv` and `validation.csv` (affectnet_csv)
- the newer package: `train_set` and `val_set` (affectnet_package)

The official test part was never handed out; its validation part is the split `test` here, as everybody reports it.
Valence and arousal have no place in a manifest and are not read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from s4d.data.manifest import ManifestRow
from s4d.datasets import CLASS_NAMES, affectnet_csv, affectnet_lists, affectnet_package
from s4d.datasets.request import Request
from s4d.errors import DataError

logger = logging.getLogger(__name__)

Reader = Callable[[Path, str, Request], list[ManifestRow]]

# In order of precedence: whoever puts lists beside the images means the lists.
FORMS: tuple[tuple[str, Callable[[Path, int], bool], Reader], ...] = (
    ("lists of the S4D release", affectnet_lists.is_here, affectnet_lists.read),
    ("training.csv and validation.csv", lambda root, _: affectnet_csv.is_here(root), affectnet_csv.read),
    ("train_set and val_set", lambda root, _: affectnet_package.is_here(root), affectnet_package.read),
)


def prepare(root: Path, request: Request) -> list[ManifestRow]:
    """One row per image of the seven classes without contempt; DataError names file, row and field."""
    return _prepare(root, "affectnet", request)


def prepare_eight(root: Path, request: Request) -> list[ManifestRow]:
    """One row per image of the eight classes; DataError names file, row and field."""
    return _prepare(root, "affectnet8", request)


def _prepare(root: Path, dataset: str, request: Request) -> list[ManifestRow]:
    request.refuse(dataset, "fold")
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    classes = len(CLASS_NAMES[dataset])
    found = [(name, read) for name, is_here, read in FORMS if is_here(root, classes)]
    if not found:
        raise DataError(
            f"{root}: nothing of AffectNet (looked for {', '.join(name for name, _, _ in FORMS)}; "
            f"the lists are called {' and '.join(affectnet_lists.patterns(classes))})"
        )
    name, read = found[0]
    if len(found) > 1:
        logger.warning("%s: holds %s; read the %s", root, " and ".join(form for form, _ in found), name)
    return read(root, dataset, request)
