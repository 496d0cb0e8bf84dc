"""The runs of a correlation study: their trained models, and which heads are the static and the dynamic one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from s4d.analysis.correlation.classes import SharedClasses, columns_of, shared_classes
from s4d.analysis.correlation.run_names import run_names
from s4d.config import Config, load
from s4d.errors import UsageError
from s4d.models.trained import TrainedModel, load_trained

# What a model must take in the same way to be shown the same batches.
INPUTS = ("image_size", "num_frames", "patch_size", "tubelet_size")


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """One run: its model and the names of the heads to study; None where it has none of the modality."""

    name: str
    model: TrainedModel
    static: str | None
    dynamic: str | None

    @property
    def shown(self) -> dict[str, str]:
        """The head to judge by showing, for the showings of the modalities that the run was trained on."""
        found: dict[str, str] = {}
        if self.static is not None:
            found |= {"images": self.static, "frames": self.static}
        if self.dynamic is not None:
            found |= {"clips": self.dynamic, "stilled": self.dynamic}
        return found

    @property
    def is_joint(self) -> bool:
        """Whether the run was trained on both tasks."""
        return self.static is not None and self.dynamic is not None

    @property
    def kind(self) -> str:
        """What the run was trained on and whether it has experts."""
        if not self.is_joint:
            return "static alone" if self.dynamic is None else "dynamic alone"
        return "joint, with experts" if self.model.arch.experts is not None else "joint, without experts"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cast:
    """Everybody in a study; `config` is the main run's, the first's, and says what all models are shown."""

    config: Config
    subjects: tuple[Subject, ...]
    images: str
    clips: str
    shared: SharedClasses

    @property
    def main(self) -> Subject:
        """The run whose two heads are studied."""
        return self.subjects[0]


def load_cast(
    runs: Sequence[Path], *, static: str | None = None, dynamic: str | None = None, device: torch.device
) -> Cast:
    """Load the runs' newest weights; `static` and `dynamic` name heads where a run has several of a modality.

    UsageError where the first run lacks one of the two heads, or another run has other classes or another input size.
    """
    models = [load_trained(run, device=device) for run in runs]
    subjects = [
        Subject(
            name=name,
            model=model,
            static=_head(run, model, "image", static, "--static"),
            dynamic=_head(run, model, "video", dynamic, "--dynamic"),
        )
        for run, name, model in zip(runs, run_names(runs), models, strict=True)
    ]
    main = subjects[0]
    if main.static is None or main.dynamic is None:
        missing = "images" if main.static is None else "videos"
        raise UsageError(f"{runs[0]}: has no head for {missing}; the first run must have been trained on both")
    for option, wanted, head in (("--static", static, main.static), ("--dynamic", dynamic, main.dynamic)):
        if wanted not in (None, head):
            raise UsageError(f"{option}: {runs[0]} has no such head {wanted!r} (it has {head})")
    if main.model.run_config is None:
        raise UsageError(f"{runs[0]}: is no run folder: its config.yaml, which says what data to show, is missing")
    shared = shared_classes(main.model.classes[main.static], main.model.classes[main.dynamic])
    for run, subject in zip(runs[1:], subjects[1:], strict=True):
        _check_alike(run, subject, main, shared)
    return Cast(
        config=load(main.model.run_config, ["model.init_from=null"]),
        subjects=tuple(subjects),
        images=main.static,
        clips=main.dynamic,
        shared=shared,
    )


def _head(run: Path, model: TrainedModel, modality: str, wanted: str | None, option: str) -> str | None:
    """The head for a modality: the one of the name asked for, else the only one."""
    names = [name for name in model.classes if model.modalities[name] == modality]
    if wanted in names:
        return wanted
    if len(names) > 1:
        raise UsageError(f"{run}: has several heads for {modality}s ({', '.join(names)}); choose one with {option}")
    return names[0] if names else None


def _check_alike(run: Path, subject: Subject, main: Subject, shared: SharedClasses) -> None:
    for field in INPUTS:
        here, there = getattr(subject.model.arch, field), getattr(main.model.arch, field)
        if here != there:
            raise UsageError(f"{run}: model.{field} is {here}, but {there} in the first run, whose data it is shown")
    for head in (subject.static, subject.dynamic):
        if head is not None:
            columns_of(shared.names, subject.model.classes[head], f"{run}: head {head}")
