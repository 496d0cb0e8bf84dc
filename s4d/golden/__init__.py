"""Replay of golden files: does this build compute what the released model classes computed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch

from kernels.attention import BACKENDS as ATTENTION_BACKENDS
from kernels.moae import BACKENDS as MOAE_BACKENDS
from s4d.golden.finetune import replay_finetuning
from s4d.golden.fixture import Fixture
from s4d.golden.pretrain import replay_pretraining
from s4d.golden.report import GoldenReport, TensorCheck

__all__ = ["GoldenReport", "TensorCheck", "replay", "replay_all"]

REFERENCE = {"attention": "reference", "moae": "reference", "patch": "reference", "reconstruction": "reference"}


def replay(
    path: Path | str, *, dtype: torch.dtype = torch.float64, attention: str = "reference", moae: str = "reference"
) -> GoldenReport:
    """Recompute one file with the named backends; a backend that cannot serve it gives a report with its reason.

    DataError for a file that is not a golden file or lacks a tensor.
    """
    fixture = Fixture(Path(path))
    backends = {**REFERENCE, "attention": attention, "moae": moae}
    run = replay_pretraining if fixture.pretrained else replay_finetuning
    shown = {"attention": attention} if fixture.pretrained else {"attention": attention, "moae": moae}
    report = GoldenReport(path=str(path), dtype=str(dtype).removeprefix("torch."), backends=shown)
    try:
        checks = run(fixture, dtype, backends)
    except ValueError as error:
        if "cannot serve this call" not in str(error):
            raise
        return replace(report, refusal=str(error))
    return replace(report, checks=tuple(checks), unaccounted=fixture.unaccounted)


def replay_all(paths: Iterable[Path | str]) -> list[GoldenReport]:
    """Every file in float64 with the reference backends, and in float32 with every attention and MoAE backend."""
    reports = []
    for path in paths:
        reports.append(replay(path))
        for name in ATTENTION_BACKENDS:
            reports.append(replay(path, dtype=torch.float32, attention=name))
        if not Fixture(Path(path)).pretrained:
            others = [name for name in MOAE_BACKENDS if name != "reference"]
            reports += [replay(path, dtype=torch.float32, moae=name) for name in others]
    return reports
