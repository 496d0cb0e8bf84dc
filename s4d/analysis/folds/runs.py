"""The run of each fold: where it lies, how it is told from the others, and whether it can be used."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from s4d.config import Config, load
from s4d.config_drift import may_change
from s4d.data.manifest_io import read_manifest
from s4d.errors import UsageError

FINISHED = "finished.json"
PREDICTIONS = "predictions.npz"
_OWN_FOLDER = re.compile(r"fold_\d+")
_OWN_NAME = re.compile(r"-fold\d+$")


@dataclass(frozen=True, kw_only=True, slots=True)
class FoldRun:
    """One fold's run below `out`; `overrides` turn the configuration of all folds into this one's."""

    fold: int
    path: Path
    overrides: tuple[str, ...]


def fold_sources(config: Config) -> list[int]:
    """Indices of the sources that have folds, which are those that name one; UsageError if none does."""
    found = [index for index, source in enumerate(config.data.sources) if source.fold is not None]
    if not found:
        raise UsageError("data.sources: no source names its fold; set `fold: 1` for the one to go through")
    return found


def folds_of(config: Config) -> tuple[int, ...]:
    """The folds that every source with folds has in its manifest; UsageError if they share none."""
    sources = [config.data.sources[index] for index in fold_sources(config)]
    sets = [{row.fold for row in read_manifest(each.manifest).rows if row.fold is not None} for each in sources]
    shared = sorted(set.intersection(*sets))
    if not shared:
        names = ", ".join(source.manifest for source in sources)
        raise UsageError(f"data.sources: {names}: no fold in common; prepare a manifest with all folds")
    return tuple(shared)


def default_folder(config: Config) -> Path:
    """Where the folds of a configuration lie: the parent of a `run_dir` named `fold_1`, else `<run_dir>_folds`."""
    run_dir = Path(config.run_dir)
    return run_dir.parent if _OWN_FOLDER.fullmatch(run_dir.name) else run_dir.with_name(f"{run_dir.name}_folds")


def shared_name(config: Config) -> str:
    """The name of the runs without the fold it may end with."""
    return _OWN_NAME.sub("", config.name)


def fold_run(config: Config, fold: int, out: Path) -> FoldRun:
    """The run of one fold: `fold_<number>` below `out`, told apart in the configuration by fold and name."""
    sets = [f"data.sources.{index}.fold={fold}" for index in fold_sources(config)]
    name = json.dumps(f"{shared_name(config)}-fold{fold}")
    return FoldRun(fold=fold, path=out / f"fold_{fold}", overrides=(*sets, f"name={name}"))


def is_finished(run: FoldRun) -> bool:
    """Whether training and its evaluation came to their end."""
    return (run.path / FINISHED).is_file()


def missing_because(run: FoldRun) -> str | None:
    """Why a fold's run cannot be in the table; None if it can."""
    if not run.path.is_dir():
        return "not run"
    if not is_finished(run):
        return "not finished"
    if not (run.path / PREDICTIONS).is_file():
        return f"finished without {PREDICTIONS}, which `s4d evaluate {run.path} --out {run.path}` writes"
    return None


def refuse_another_run(run: FoldRun, config: Path, overrides: Sequence[str]) -> None:
    """UsageError if a finished fold was trained with other settings than are asked for now."""
    wanted = load(config, [*overrides, *run.overrides])
    problem = difference(load(run.path / "config.yaml"), wanted, folds_differ=False)
    if problem:
        raise UsageError(f"{run.path}: finished with other settings: {problem}; remove it or choose another --out")


def refuse_unlike(runs: Sequence[FoldRun]) -> None:
    """UsageError unless the runs are alike but for their folds, and each is of the fold its folder says."""
    stored = [load(run.path / "config.yaml") for run in runs]
    for run, config in zip(runs, stored, strict=True):
        for index in fold_sources(config):
            if config.data.sources[index].fold != run.fold:
                found = config.data.sources[index].fold
                raise UsageError(f"{run.path / 'config.yaml'}: data.sources.{index}.fold: is {found}, not {run.fold}")
        problem = difference(stored[0], config, folds_differ=True)
        if problem:
            raise UsageError(f"{run.path}: trained with other settings than fold {runs[0].fold}: {problem}")


def difference(first: Config, second: Config, *, folds_differ: bool) -> str | None:
    """The first setting that makes them different runs, as `field: old -> new`; folds are one only on request."""
    before, after = (_values(config) for config in (first, second))
    for key in {**before, **after}:
        one, two = before.get(key), after.get(key)
        if one == two or may_change(Config, key, one, two):
            continue
        if not (folds_differ and re.fullmatch(r"data\.sources\.\d+\.fold", key)):
            return f"{key}: {one} -> {two}"
    return None


def _values(config: Config) -> Mapping[str, object]:
    return {key: setting["value"] for key, setting in config.settings().items()}
