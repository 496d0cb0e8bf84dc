"""What is exported, how an export is kept, and what is reported of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s4d.atomic_files import flush
from s4d.errors import DataError, UsageError
from s4d.models.fit import refuse_misfit, shapes_of
from s4d.models.folder import CONFIG_FILE, find_model, read_architecture, read_config, read_tensors
from s4d.models.sizes import Architecture
from s4d.models.weights import stored_classes

STAGES = ("pretrain", "finetune", "encoder")


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What the user asked for: the head (None: the only one that fits), what an encoder without heads is shown,
    samples in one call of a program, and an interpreter that has transformers."""

    head: str | None = None
    modality: str = "video"
    batch: int = 1
    check_with: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportReport:
    """What was compared before the file was kept, and how far it was from the source at most."""

    out: Path
    compared: str
    largest_difference: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A model on disk: its tensors on the CPU, `stage`, class names and modality by head, and its `config.json`."""

    folder: Path
    stage: str
    arch: Architecture
    tensors: Mapping[str, Tensor]
    classes: Mapping[str, tuple[str, ...]]
    modalities: Mapping[str, str]
    described: Mapping[str, Any]

    def head_for(self, wanted: str | None, modality: str | None = None) -> str | None:
        """The head asked for by name, or the only one of the modality; UsageError names those there are.

        None where the model has no heads and none was asked for.
        """
        if wanted is None and self.stage != "finetune":
            return None
        fitting = [name for name in self.classes if modality in (None, self.modalities[name])]
        if wanted is not None and wanted not in fitting:
            raise UsageError(f"command line: --head {wanted!r}: expected one of {', '.join(fitting) or 'none'}")
        kind = f" for {modality}s" if modality else ""
        if not fitting:
            raise UsageError(f"{self.folder}: a classifier without a head{kind}, which could be exported")
        if wanted is None and len(fitting) != 1:
            raise UsageError(f"{self.folder}: {len(fitting)} heads{kind} ({', '.join(fitting)}); choose with --head")
        return wanted or fitting[0]


def open_source(path: Path) -> Source:
    """The model behind a run, checkpoint or model folder; DataError names the file and the field."""
    folder = find_model(path)
    described = read_config(folder)
    stage = described.get("stage")
    if stage not in STAGES:
        raise DataError(f"{folder / CONFIG_FILE}: field 'stage': expected one of {', '.join(STAGES)}, got {stage!r}")
    classes = stored_classes(folder)
    modalities = _modalities(folder, classes, described)
    tensors = read_tensors(folder)
    refuse_misfit(folder, described, shapes_of(tensors))
    return Source(
        folder=folder,
        stage=stage,
        arch=read_architecture(folder),
        tensors=tensors,
        classes=classes,
        modalities=modalities,
        described=described,
    )


def _modalities(folder: Path, classes: Mapping[str, Any], described: Mapping[str, Any]) -> dict[str, str]:
    from s4d.models.trained import find_run_config, modalities_of

    return modalities_of(folder, classes, described, find_run_config(folder)) if classes else {}


@contextmanager
def kept_if_good(out: Path) -> Iterator[Path]:
    """A path beside `out` to write to; it takes the place of `out` when the block ends without an error."""
    if out.exists():
        raise DataError(f"{out}: already exists")
    aside = out.with_name(f".{os.getpid()}.{out.name}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        flush(aside)
        aside.rename(out)
        flush(out.parent)
    except OSError as error:
        raise DataError(f"{out}: cannot write: {error.strerror or error}") from error
    finally:
        if aside.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.unlink(missing_ok=True)


def refuse_unless_equal(out: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """DataError for the first tensor that what was written does not give back to the bit."""
    for name in sorted(found.keys() | expected.keys()):
        if name not in found or name not in expected or not torch.equal(found[name], expected[name]):
            raise DataError(f"{out}: not kept: tensor {name!r} does not come back as it was")


def refuse_if_far(out: Path, pairs: Mapping[str, tuple[Tensor, Tensor]], tolerance: float) -> float:
    """Largest difference of outputs (found, expected), in units of the expected ones where those exceed 1."""
    largest = 0.0
    for name, (found, expected) in pairs.items():
        if found.shape != expected.shape:
            raise DataError(f"{out}: not kept: {name}: {tuple(found.shape)} instead of {tuple(expected.shape)}")
        scale = max(1.0, float(expected.abs().max()))
        difference = float((found.double() - expected.double()).abs().max()) / scale
        if not difference <= tolerance:
            raise DataError(f"{out}: not kept: {name} differ by {difference:.2g} from the source's")
        largest = max(largest, difference)
    return largest


def random_frames(arch: Architecture, modality: str, batch: int, seed: int) -> Tensor:
    """Pixels (n, F, S, S, 3) uint8 to compare on."""
    frames = 1 if modality == "image" else arch.num_frames
    shape = (batch, frames, arch.image_size, arch.image_size, 3)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


Exporter = Callable[[Source, Path, Wanted], ExportReport]
