"""Which backend decodes a run's media: as configured, or the fastest on the run's own files where there is a GPU."""

from __future__ import annotations

import logging

import torch
import torch.distributed as dist

from s4d.config import Config
from s4d.data.plan import SamplePlan
from s4d.data.trial import Trial
from s4d.data.trial_process import try_apart
from s4d.errors import UsageError

logger = logging.getLogger(__name__)

BACKENDS = ("pyav", "dali", "torchcodec")
FIELD = "data.backend"
FEW = 4


def require(config: Config, plan: SamplePlan, rank: int, device: torch.device) -> None:
    """UsageError where the backend that the configuration names cannot decode the run's files; it never falls back."""
    backend = config.data.backend
    if backend in ("auto", "pyav"):
        return
    cached = _cached(plan)
    if cached:
        raise UsageError(
            f"{FIELD}: {backend} decodes files, but source {cached} has a cache of decoded frames; use pyav"
        )
    reason = try_apart(backend, config, plan, rank, device, FEW).refusal
    if reason:
        raise UsageError(f"{FIELD}: {backend}: {reason}")


def choose(config: Config, plan: SamplePlan, rank: int, device: torch.device) -> str:
    """The backend to decode with, the same on all ranks, which call this together.

    `auto` on a GPU measures each backend on the first rank's first samples, which logs what it found.
    """
    if config.data.backend != "auto":
        return config.data.backend
    unmeasured = without_measuring(device.type, cached=_cached(plan) is not None)
    if unmeasured is not None:
        return unmeasured[0]
    chosen = [""]
    if rank == 0:
        chosen = [fastest(try_all(config, plan, device))]
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.broadcast_object_list(chosen, src=0)
    return chosen[0]


def without_measuring(device: str, *, cached: bool) -> tuple[str, str] | None:
    """What `auto` takes for frames wanted on a `device`, and why, where nothing needs to be measured for that."""
    if device == "cpu":
        return "pyav", "on a CPU nothing else is tried"
    return ("pyav", "a cache of decoded frames needs no decoder") if cached else None


def _cached(plan: SamplePlan) -> str | None:
    """Name of a source that is read from a cache, which needs no decoder."""
    return next((source.config.name for source in plan.sources if source.cache is not None), None)


def try_all(config: Config, plan: SamplePlan, device: torch.device) -> list[Trial]:
    """A trial of each backend on the first rank's first samples."""
    return [_trial(backend, config, plan, device) for backend in BACKENDS]


def _trial(backend: str, config: Config, plan: SamplePlan, device: torch.device) -> Trial:
    """A trial that no error ends: the other ranks wait for its outcome, and training tells of it again."""
    try:
        return try_apart(backend, config, plan, 0, device)
    except Exception as error:
        lines = str(error).splitlines() or [type(error).__name__]
        return Trial(backend=backend, refusal=lines[-1])


def fastest(trials: list[Trial]) -> str:
    """Name of the backend with the most views a second; logs one line with the figures and refusals of all."""
    best = max(trials, key=lambda trial: trial.views_per_second)
    logger.info("%s: auto is %s (%s)", FIELD, best.backend, "; ".join(map(str, trials)))
    return best.backend
