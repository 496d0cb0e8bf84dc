"""Processes of a run: ranks, device, and how ranks agree to stop or fail together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from engine.errors import PeerFailedError
from engine.lasting_output import outlive_readers
from engine.watchdog.heartbeat import Mark, pulse
from kernels.wide_products import are_missing, widen_products

SHARED_MEMORY_OP = "deepspeed_shm_comm"
JOIN_SECONDS = 1800.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Runtime:
    """This process among the others. `control` is a gloo group for host-side agreement, beside the device's own."""

    rank: int
    local_rank: int
    world_size: int
    device: torch.device
    control: dist.ProcessGroup

    def agree(self, value: int) -> int:
        """Largest `value` over all ranks; a small host-side reduction that never waits for the device."""
        if self.world_size == 1:
            return value
        tensor = torch.tensor([value], dtype=torch.int64)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=self.control)
        return int(tensor[0])

    def gather(self, value: Any) -> list[Any]:
        """What every rank gives, in the order of ranks."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self.control)
        return values

    @contextmanager
    def together(self, phase: str) -> Iterator[None]:
        """Run a phase without collectives on every rank; if it fails anywhere, all ranks leave with one exit code.

        The first failing rank raises its own error, all others raise PeerFailedError.
        """
        failure: BaseException | None = None
        try:
            yield
        except BaseException as error:
            failure = error
        self.raise_first(failure, self.agree(self.verdict(failure)), phase)

    def verdict(self, failure: BaseException | None) -> int:
        """What to agree on about a failure: 0 for none, larger for a lower rank, the exit status in the low 8 bits."""
        return (self.world_size - self.rank) << 8 | exit_code_of(failure) if failure else 0

    def raise_first(self, failure: BaseException | None, agreed: int, phase: str) -> None:
        """After agreement on verdicts: the first failing rank raises its error, so that one rank tells it."""
        if failure is not None and agreed == self.verdict(failure):
            raise failure
        if agreed:
            raise PeerFailedError(f"rank {self.world_size - (agreed >> 8)} failed during {phase}", agreed & 255)

    def close(self) -> None:
        """Leave the process group after the other ranks have come this far too."""
        dist.barrier(group=self.control)
        pulse.leave(Mark.FINISHED, 0)
        dist.destroy_process_group()


def exit_code_of(error: BaseException) -> int:
    """Exit status an exception asks for; 1 if it says nothing."""
    code = getattr(error, "exit_code", None)
    return code if isinstance(code, int) and code > 0 else 1


def choose_device() -> tuple[str, str]:
    """What a run here computes on, "cuda" or "cpu", and what its ranks reduce with."""
    on_gpu = torch.cuda.is_available() and os.environ.get("DS_ACCELERATOR") != "cpu"
    return ("cuda", "nccl") if on_gpu else ("cpu", "gloo")


def start_runtime(limit: float = JOIN_SECONDS) -> Runtime:
    """Join the process group the launcher described in the environment, or form a group of one without any port.

    `limit` is for all ranks to come, and for collectives until `engine.watchdog.guard` sets limits of its own.
    """
    outlive_readers()
    timeout = timedelta(seconds=limit)
    kind, backend = choose_device()
    on_gpu = kind == "cuda"
    os.environ.setdefault("DS_ACCELERATOR", kind)
    local_rank = int(os.environ.setdefault("LOCAL_RANK", "0"))
    device = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    else:
        _share_cores()
        if are_missing():
            widen_products()
    if "RANK" not in os.environ:
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=timeout)
    _init_deepspeed(backend, timeout)
    control = dist.new_group(backend="gloo", timeout=timeout) if on_gpu else dist.group.WORLD
    assert control is not None
    return Runtime(
        rank=dist.get_rank(), local_rank=local_rank, world_size=dist.get_world_size(), device=device, control=control
    )


def _share_cores() -> None:
    # Without a word from the user each rank would take all cores of the machine.
    if "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // int(os.environ.get("LOCAL_SIZE", "1"))))


def _init_deepspeed(backend: str, timeout: timedelta) -> None:
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel("WARNING")
    # The op is compiled on first use and never unlinks its buffers in /dev/shm; gloo does the same work without it.
    deepspeed.ops.__compatible_ops__[SHARED_MEMORY_OP] = False
    deepspeed.init_distributed(backend, auto_mpi_discovery=False, verbose=False, timeout=timeout)


def say(runtime: Runtime, message: str) -> None:
    """Print one line of progress on rank 0."""
    if runtime.rank == 0:
        print(message, flush=True)
