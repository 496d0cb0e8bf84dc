"""Checkpoints of a run: what is in them, when they are published, which one is loaded.

`checkpoints/step-00000020/` holds model.safetensors (fp32 weights), optimizer.safetensors (AdamW moments),
ema.safetensors if an average is kept, state.json (counters), settings.json (what the run is, see `engine.drift`),
config.json (the task's description) and manifest.json.
Every tensor is whole and named, so that any world size and ZeRO stage can load it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from engine.checkpoint_files import ASIDE, discard, replace_text, verify_checkpoint, write_checkpoint
from engine.drift import Settings, find_drift
from engine.ema import MovingAverage
from engine.errors import CheckpointError, StateRefusedError
from engine.master_state import MOMENTS, MasterState
from engine.protocols import Task
from engine.runtime import Runtime, say

MODEL, OPTIMIZER, EMA = "model.safetensors", "optimizer.safetensors", "ema.safetensors"
STATE, SETTINGS, CONFIG = "state.json", "settings.json", "config.json"


class Checkpoints:
    """The checkpoints of one run folder, written and read by all ranks together."""

    def __init__(
        self,
        folder: Path,
        *,
        runtime: Runtime,
        task: Task,
        state: MasterState,
        average: MovingAverage,
        settings: Settings,
    ) -> None:
        self._folder = folder
        self._runtime = runtime
        self._task = task
        self._state = state
        self._average = average
        self._settings = settings

    def save(self, step: int, *, counters: Mapping[str, int], keep_last: int) -> None:
        """Publish the state after `step` optimizer steps and remove all but the newest `keep_last`; collective."""
        tensors = self._collect()
        state = {"step": step, "counters": dict(counters)}
        with self._runtime.together("the checkpoint"):
            if self._runtime.rank == 0:
                self._publish(state, tensors, keep_last)

    def _collect(self) -> dict[str, dict[str, Tensor]]:
        """Files and their tensors on rank 0, empty files elsewhere; every rank takes part in gathering."""
        sources = {MODEL: [("", self._state.shards)]}
        sources[OPTIMIZER] = [(f"{key}/", self._state.moments(key)) for key in MOMENTS]
        if self._average.active:
            sources[EMA] = [("", self._average.shards)]
        files: dict[str, dict[str, Tensor]] = {name: {} for name in sources}
        for file, parts in sources.items():
            for prefix, shards in parts:
                for name, tensor in self._state.gather(shards):
                    if self._runtime.rank == 0:
                        files[file][prefix + name] = tensor.detach().to("cpu", copy=True)
        if self._runtime.rank == 0:
            files[MODEL] |= {name: buffer.to("cpu") for name, buffer in _saved_buffers(self._task)}
        return files

    def _publish(self, state: dict[str, Any], tensors: dict[str, dict[str, Tensor]], keep_last: int) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for stale in self._folder.glob(f"{ASIDE}*-*"):
            discard(stale)
        target = self._folder / f"step-{state['step']:08d}"
        if target.exists() and _problem(target) is not None:
            discard(target)
        if not target.exists():
            records = {STATE: state, SETTINGS: self._settings, CONFIG: self._task.describe()}
            write_checkpoint(target, tensors, records)
        replace_text(self._folder / "latest", target.name + "\n")
        for old in published(self._folder)[keep_last:]:
            if old != target:
                discard(old)

    def load(self, source: Path) -> tuple[int, dict[str, int]]:
        """Put a checkpoint folder, or the newest intact one of a run folder, in place; returns its step and counters.

        A damaged checkpoint of a run is reported and the one before it taken. StateRefusedError if none is left or if
        it belongs to a run with other settings; CheckpointError if `source` itself is damaged or if its
        tensors do not fit the model.
        """
        chosen = -1
        with self._runtime.together("the search for a checkpoint"):
            if self._runtime.rank == 0:
                chosen = self._choose(source)
        folder = candidates(source)[self._runtime.agree(chosen)]
        with self._runtime.together("loading the checkpoint"):
            accepted = self._compare_settings(folder)
            state = self._restore(folder)
        self._state.push()
        say(self._runtime, f"continuing from {folder} (step {state['step']})")
        for line in accepted:
            say(self._runtime, f"changed since then: {line}")
        return state["step"], state["counters"]

    def _choose(self, source: Path) -> int:
        problems = []
        folders = candidates(source)
        for index, folder in enumerate(folders):
            problem = _problem(folder)
            if problem is None:
                return index
            if folders == [source]:
                raise problem
            if index + 1 < len(folders):
                print(f"warning: {problem}; trying the checkpoint before it", flush=True)
            problems.append(problem)
        tried = "; ".join(map(str, problems)) or "no checkpoint there"
        raise StateRefusedError(f"{source}: nothing that can be loaded ({tried}); --fresh starts over")

    def _compare_settings(self, folder: Path) -> tuple[str, ...]:
        """Changes that a continuation may make; StateRefusedError names all the others."""
        try:
            stored = json.loads((folder / SETTINGS).read_bytes())
        except FileNotFoundError:
            raise StateRefusedError(
                f"{folder}: has no {SETTINGS}, so nobody knows what run it belongs to; "
                "start a new run from its weights with model.init_from"
            ) from None
        drift = find_drift(stored, self._settings)
        if drift.refused:
            raise StateRefusedError(
                f"{folder}: a run cannot go on with other settings: {'; '.join(drift.refused)}; "
                "take the old values, or start over with --fresh, or a new run with model.init_from"
            )
        return drift.accepted

    def _restore(self, folder: Path) -> dict[str, Any]:
        state: dict[str, Any] = json.loads((folder / STATE).read_bytes())
        self._state.reset_optimizer(state["step"])
        self._read(folder / MODEL, "", self._state.shards)
        for key in MOMENTS:
            self._read(folder / OPTIMIZER, f"{key}/", self._state.moments(key))
        if self._average.active:
            # A run that turns averaging on later starts the average at its current weights.
            file = folder / EMA if (folder / EMA).exists() else folder / MODEL
            self._read(file, "", self._average.shards)
        return state

    def _read(self, path: Path, prefix: str, shards: list[Tensor]) -> None:
        with safe_open(path, framework="pt") as reader:
            names = [name for name in reader.keys() if name.startswith(prefix)]  # noqa: SIM118 (not a dict)
            found = {name: tuple(reader.get_slice(name).get_shape()) for name in names}
            for name, shape in self._state.shapes.items():
                if found.get(prefix + name) != shape:
                    problem = f"has shape {found[prefix + name]}" if prefix + name in found else "is missing"
                    raise CheckpointError(
                        f"{path}: tensor {prefix + name!r} {problem}, this model needs {shape}: "
                        "the checkpoint belongs to another model"
                    )
            buffers = {name for name, _ in _saved_buffers(self._task)}
            for name in found:
                if name.removeprefix(prefix) not in self._state.shapes and name not in buffers:
                    raise CheckpointError(f"{path}: tensor {name!r} is not in this model: made by another")
            self._state.scatter(shards, lambda name: reader.get_tensor(prefix + name))


def _saved_buffers(task: Task) -> list[tuple[str, Tensor]]:
    saved = set(task.module.state_dict().keys())
    return [(name, buffer) for name, buffer in task.module.named_buffers() if name in saved]


def _problem(folder: Path) -> CheckpointError | None:
    try:
        verify_checkpoint(folder)
    except CheckpointError as error:
        return error
    return None


def published(folder: Path) -> list[Path]:
    """Checkpoint folders under their final name, newest first."""
    return sorted(folder.glob("step-*"), reverse=True)


def candidates(source: Path) -> list[Path]:
    """What may be loaded from a run folder or a checkpoint folder, in order of preference."""
    return published(source / "checkpoints") if (source / "checkpoints").is_dir() else [source]
