"""Checkpoints of a run: what is in them, when they are published, which one is loaded.

`checkpoints/step-00000020/` holds model.safetensors (fp32 weights), optimizer.safetensors (AdamW moments),
ema.safetensors if an average is kept, state.json (counters), settings.json (what the run is, see `engine.drift`),
config.json (the task's description) and manifest.json.
Every tensor is whole and named, so that any world size and ZeRO stage can load it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.checkpoint_files import REPLACED, STATE, read_plain, replace_record, step_folder, verify_checkpoint
from engine.checkpoint_manifest import MANIFEST, MAX_BYTES, is_whole, parse_json
from engine.checkpoint_retention import Retention, published
from engine.checkpoint_writer import CheckpointWriter, Snapshot
from engine.drift import Settings, find_drift
from engine.ema import MovingAverage
from engine.errors import CheckpointError, StateRefusedError, UnknownScoreError
from engine.host_copies import HostCopies
from engine.master_state import MOMENTS, MasterState
from engine.protocols import EngineSettings, Task
from engine.runtime import Runtime, say

MODEL, OPTIMIZER, EMA = "model.safetensors", "optimizer.safetensors", "ema.safetensors"
SETTINGS, CONFIG = "settings.json", "config.json"


class Checkpoints:
    """The checkpoints of one run folder, written and read by all ranks together.

    `commit` is that of the sources that train, asked for at the start: what runs is what was there then.
    """

    def __init__(
        self,
        folder: Path,
        *,
        runtime: Runtime,
        task: Task,
        state: MasterState,
        average: MovingAverage,
        settings: Settings,
        policy: EngineSettings,
        commit: str | None = None,
    ) -> None:
        self._folder = folder
        self._runtime = runtime
        self._task = task
        self._state = state
        self._average = average
        self._settings = settings
        self._keep_best = policy.keep_best
        self._scores: tuple[int, Mapping[str, float]] = (0, {})
        self._commit = commit
        self._copies = HostCopies(runtime.device)
        self._writer = CheckpointWriter(
            folder,
            runtime=runtime,
            retention=Retention(keep_last=policy.keep_last, keep_every=policy.keep_every, keep_best=policy.keep_best),
            allowed_failures=policy.save_failures,
        )

    def save(self, step: int, *, counters: Mapping[str, int], before: Callable[[], None]) -> None:
        """Copy the state after `step` optimizer steps; it is published while training goes on; collective.

        `before` is called by rank 0, beside the training, once the copies are complete and before anything is written.
        Waits for the checkpoint before, which may have failed: see `settle`. A step that is saved already, as when a
        run is stopped right after a save, is not saved again.
        """
        if step == self._writer.step:
            return
        self._writer.free()
        at, scores = self._scores
        state = {
            "step": step,
            "updates": self._state.updates,
            "counters": dict(counters),
            "scores": dict(scores) if at == step else {},
        }
        tensors = self._collect()

        def begin() -> None:
            self._copies.finish()
            before()

        snapshot = Snapshot(
            step=step,
            tensors=tensors,
            records={STATE: state, SETTINGS: self._settings, CONFIG: self._description(step, scored=at == step)},
            begin=begin,
        )
        self._writer.begin(step, snapshot if self._runtime.rank == 0 else None)

    def hold_updates(self) -> None:
        """Called before the weights change: on a GPU the change comes after their copies, the host does not wait."""
        self._copies.hold_updates()

    def settle(self) -> None:
        """Between steps: raise on all ranks what writing the last checkpoint met, once that is known; collective.

        SaveError for a disk that refuses more often than is allowed, NonFiniteError for a tensor with NaN or infinity.
        """
        self._writer.settle()

    def wait(self) -> None:
        """Before leaving: return when the last checkpoint is published, raise if it is not; collective."""
        self._writer.wait()

    def linger(self, seconds: float) -> None:
        """Before leaving for a failure: let a checkpoint that is being written be published; not collective."""
        self._writer.linger(seconds)

    def scored(self, step: int, scores: Mapping[str, float]) -> None:
        """Take note of an evaluation; UnknownScoreError if it lacks the score by which checkpoints are kept."""
        self._scores = (step, scores)
        with self._runtime.together("the evaluation"):
            if self._keep_best is not None and self._keep_best not in scores:
                known = ", ".join(scores) or "none"
                raise UnknownScoreError(f"engine.keep_best: no score {self._keep_best!r} in the evaluation ({known})")

    def describe_again(self, step: int) -> None:
        """Give the checkpoint of `step`, the last of a finished run, the scores that were found after it; collective.

        SaveError for a disk that refuses, whatever failures are allowed: the same command tries again.
        """
        with self._runtime.together("describing the checkpoint"):
            folder = step_folder(self._folder, step)
            described = self._description(step, scored=True)
            there = any(folder.with_name(folder.name + end).is_dir() for end in ("", REPLACED))
            if self._runtime.rank == 0 and "metrics" in described and there:
                replace_record(folder, CONFIG, described)

    def _description(self, step: int, *, scored: bool) -> dict[str, Any]:
        """What the task says of its weights; `scored`: its last evaluation is one of these very weights."""
        described = dict(self._task.describe())
        metrics = described.pop("metrics", None)
        return {
            **described,
            "step": step,
            **({"metrics": {"step": step, **metrics}} if metrics is not None and scored else {}),
            **({"commit": self._commit} if self._commit is not None else {}),
        }

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
                        files[file][prefix + name] = self._copies.take(f"{file}/{prefix}{name}", tensor)
        if self._runtime.rank == 0:
            for name, buffer in _saved_buffers(self._task):
                files[MODEL][name] = self._copies.take(f"{MODEL}/{name}", buffer)
        return files

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
        folder = self._agreed_folder(source, chosen)
        with self._runtime.together("loading the checkpoint"):
            accepted = self._compare_settings(folder)
            state = self._restore(folder)
            if self._runtime.rank == 0:
                self._writer.sweep()
        self._state.push()
        say(self._runtime, f"continuing from {folder} (step {state['step']})")
        for line in accepted:
            say(self._runtime, f"changed since then: {line}")
        return state["step"], state["counters"]

    def _agreed_folder(self, source: Path, chosen: int) -> Path:
        """The folder that rank 0 chose, as this rank sees it: the same to the manifest, or all ranks leave."""
        index = self._runtime.agree(chosen)
        manifest = b""
        with self._runtime.together("the search for a checkpoint"):
            folders = candidates(source)
            if index < len(folders) and (folders[index] / MANIFEST).is_file():
                manifest = read_plain(folders[index] / MANIFEST, MAX_BYTES)
        mark = int.from_bytes(hashlib.sha256(manifest).digest()[:7], "little")
        agreed = self._runtime.agree(mark if self._runtime.rank == 0 else 0)
        with self._runtime.together("the search for a checkpoint"):
            if mark != agreed:
                raise CheckpointError(
                    f"{source}: this rank does not find the checkpoint that rank 0 found: "
                    "the folder must be one that all nodes share"
                )
        return folders[index]

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
            stored = _read_record(folder / SETTINGS)
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
        state = _read_record(folder / STATE)
        step, counters = state.get("step"), state.get("counters")
        updates = state.setdefault("updates", step)
        if not isinstance(counters, dict) or not all(map(is_whole, [step, updates, *counters.values()])):
            raise CheckpointError(f"{folder / STATE}: step, updates or counters are not whole numbers")
        self._state.reset_optimizer(state["updates"])
        self._read(folder / MODEL, "", self._state.shards)
        for key in MOMENTS:
            self._read(folder / OPTIMIZER, f"{key}/", self._state.moments(key))
        if self._average.active:
            # A run that turns averaging on later starts the average at its current weights.
            file = folder / EMA if (folder / EMA).exists() else folder / MODEL
            self._read(file, "", self._average.shards)
        return state

    def _read(self, path: Path, prefix: str, shards: list[Tensor]) -> None:
        try:
            opened = safe_open(path, framework="pt")
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: not a readable safetensors file: {error}") from error
        with opened as reader:
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


def _read_record(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a checkpoint; FileNotFoundError, or CheckpointError if it is something else."""
    try:
        content = parse_json(read_plain(path, MAX_BYTES))
    except ValueError as error:
        raise CheckpointError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected an object, got {type(content).__name__}")
    return content


def candidates(source: Path) -> list[Path]:
    """What may be loaded from a run folder or a checkpoint folder, in order of preference."""
    return published(source / "checkpoints") if (source / "checkpoints").is_dir() else [source]
