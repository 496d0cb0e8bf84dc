"""Run folders as training leaves them, without the training: tiny models with random weights on generated media."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from s4d.config import Config, save
from s4d.models.folder import write_folder
from s4d.tasks import build_task
from s4d.tasks.finetune import FinetuneTask

sys.path.append(str(Path(__file__).resolve().parent))
sys.path.append(str(Path(__file__).resolve().parents[3] / "engine"))

from engine_project import run_values, write_media

Change = Callable[[FinetuneTask], None]


@pytest.fixture(scope="session")
def tiny_media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sources `stills` (nine training samples, three to test) and `clips` (seven and three), of three classes."""
    root = tmp_path_factory.mktemp("media")
    write_media(root, images=12, clips=10)
    return root


@pytest.fixture
def make_run(tiny_media: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes a run folder `name` with a checkpoint for each step; `change` edits the task whose weights are written."""

    def make(name: str, *, steps: tuple[int, ...] = (5,), change: Change | None = None, **values: Any) -> Path:
        run = tmp_path / name
        merged = run_values(tiny_media, run) | values
        merged["model"] = merged["model"] | {"moae": {"num_experts": 4, "top_k": 2, "zero_init": False}}
        config = Config.model_validate(merged)
        run.mkdir()
        save(config, run / "config.yaml")
        for step in steps:
            seeded = Config.model_validate(merged | {"seed": step})
            task = build_task(seeded, rank=0, world_size=1, device=torch.device("cpu"))
            assert isinstance(task, FinetuneTask)
            if change is not None:
                change(task)
            checkpoint = run / "checkpoints" / f"step-{step:08d}"
            write_folder(checkpoint, task.module.state_dict(), task.describe())
        (run / "checkpoints" / "latest").write_text(f"step-{max(steps):08d}\n")
        return run

    return make
