"""R9: what a checkpoint holds is what lived at its step, though it is written while training goes on."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch

from engine import checkpoint_files, checkpoint_writer
from engine.adamw import WholeAdamW
from engine.checkpoint import Checkpoints
from engine.checkpoint_files import verify_checkpoint
from engine.master_state import MOMENTS
from engine.run import Choices, execute
from engine.run_folder import RunFolder
from engine.runtime import Runtime, start_runtime
from engine.stop import StopRequest

sys.path.append(str(Path(__file__).resolve().parents[1] / "engine"))

from engine_fakes import TinyBatches, TinyTask, tiny_config

STEPS = 7
KINDS = [("fp32", 0), ("fp32", 1), ("fp32", 2), ("fp32", 3), ("bf16", 0), ("bf16", 1), ("bf16", 3)]
HELD: dict[str, Runtime] = {}


def prepare(folder: Path) -> None:
    """One process group for all cases of this process."""
    torch.set_num_threads(1)
    HELD["runtime"] = start_runtime()


def run(number: int, folder: Path) -> str:
    """A run that saves after every step, with a disk that is slow at random."""
    draw = random.Random(number)
    precision, stage = KINDS[number % len(KINDS)]
    run_dir = folder / "run"
    shutil.rmtree(run_dir, ignore_errors=True)
    live: dict[int, dict[str, str]] = {}
    gathering, writing = Checkpoints.save, checkpoint_files.write_checkpoint

    def save(checkpoints: Checkpoints, step: int, **more: Any) -> None:
        live[step] = live_sums(checkpoints)
        gathering(checkpoints, step, **more)

    def write(*arguments: Any) -> None:
        time.sleep(draw.random() * 0.04)
        writing(*arguments)

    Checkpoints.save = save  # type: ignore[method-assign, assignment]
    checkpoint_writer.write_checkpoint = write  # type: ignore[attr-defined]
    try:
        config = tiny_config(
            run_dir, zero_stage=stage, precision=precision, save_every=1, keep_last=99, accumulation=draw.choice((1, 2))
        )
        train(config, run_dir)
    finally:
        Checkpoints.save = gathering  # type: ignore[method-assign]
        checkpoint_writer.write_checkpoint = writing  # type: ignore[attr-defined]
    stored = {step: stored_sums(run_dir / f"checkpoints/step-{step:08d}") for step in range(1, STEPS + 1)}
    assert stored == live, [step for step in live if stored[step] != live[step]]
    for step in range(2, STEPS + 1):
        same = [name for name in stored[step] if stored[step][name] == stored[step - 1][name]]
        assert not same, f"steps {step - 1} and {step} hold the same {same}"
    return f"{precision} stage {stage}"


def train(config: Any, run_dir: Path) -> None:
    """All steps of the small model."""
    runtime = HELD["runtime"]
    batches = TinyBatches(
        rank=0, world_size=1, accumulation=config.batch.accumulation, total_steps=STEPS, broken_step=None
    )
    folder = RunFolder(run_dir)
    run_dir.mkdir()
    done = execute(
        TinyTask(),
        batches,
        config,
        runtime=runtime,
        stop=StopRequest(),
        folder=folder,
        source=None,
        choices=Choices(read=dict, replay=lambda stored: None),
        save_config=lambda path: None,
    )
    assert done


def live_sums(checkpoints: Checkpoints) -> dict[str, str]:
    """Checksums of the present state, the weights and moments through DeepSpeed's own way of showing them."""
    # It prints when it is imported.
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    found = {}
    for name, parameter in checkpoints._task.module.named_parameters():
        if isinstance(checkpoints._state._engine.optimizer, WholeAdamW):
            whole = {
                "": parameter,
                **{f"{key}/": checkpoints._state._optimizer.state[parameter][key] for key in MOMENTS},
            }
        elif hasattr(parameter, "_hp_mapping") or hasattr(parameter, "ds_id"):
            whole = {"": safe_get_full_fp32_param(parameter)}
            whole |= {f"{key}/": safe_get_full_optimizer_state(parameter, key) for key in MOMENTS}
        else:
            continue
        for prefix, value in whole.items():
            file = "optimizer" if prefix else "model"
            found[f"{file}/{prefix}{name}"] = sum_of(value)
    for name, value in checkpoints._state.gather(checkpoints._average.shards):
        found[f"ema/{name}"] = sum_of(value)
    if not any(name.startswith("model/") for name in found):
        # bf16 without ZeRO: DeepSpeed shows nothing.
        for name, value in checkpoints._state.gather(checkpoints._state.shards):
            found[f"model/{name}"] = sum_of(value)
        for key in MOMENTS:
            for name, value in checkpoints._state.gather(checkpoints._state.moments(key)):
                found[f"optimizer/{key}/{name}"] = sum_of(value)
    return found


def sum_of(value: torch.Tensor) -> str:
    """SHA-256 of a tensor's bytes."""
    return hashlib.sha256(value.detach().float().cpu().numpy().tobytes()).hexdigest()


def stored_sums(folder: Path) -> dict[str, str]:
    """Checksums in the manifest of an intact checkpoint, saved buffers left out."""
    verify_checkpoint(folder)
    files = json.loads((folder / "manifest.json").read_bytes())["files"]
    return {
        f"{file.removesuffix('.safetensors')}/{name}": known["sha256"]
        for file, entry in files.items()
        for name, known in entry.get("tensors", {}).items()
        if name != "table"
    }
