"""What all ranks must have in common before they compute together: code, libraries, configuration, the run folder."""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
import torch.distributed as dist

from engine.errors import NodesDifferError, RunFolderError
from engine.runtime import Runtime
from engine.sources import versions

# A network file system may show a new file late.
SEEN_SECONDS = 10.0


def require_agreement(runtime: Runtime, configuration: str) -> None:
    """NodesDifferError on all ranks if sources, versions, configuration or device differ anywhere; collective.

    On the CPU the number of threads counts too: sums depend on it in the last bit.
    """
    facts = {
        **versions(),
        "the configuration": hashlib.sha256(configuration.encode()).hexdigest()[:12],
        "device": runtime.device.type,
    }
    if runtime.device.type == "cpu":
        facts["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    everywhere = gather_lines(runtime, "\t".join([os.uname().nodename, *facts.values()]))
    with runtime.together("comparing the nodes"):
        problem = difference(list(facts), [line.split("\t") for line in everywhere])
        if problem:
            raise NodesDifferError(problem)


def difference(names: Sequence[str], ranks: Sequence[Sequence[str]]) -> str:
    """One line about the first fact in which a rank differs from rank 0; empty if none does.

    `ranks` holds a node's name followed by the values of `names`, for each rank.
    """
    home, *ours = ranks[0]
    for rank, (node, *values) in enumerate(ranks):
        for name, value, our in zip(names, values, ours, strict=True):
            if value != our:
                return (
                    f"node {node} differs: {name} of rank {rank} there is {value}, of rank 0 on {home} {our}; "
                    "make them equal (values of the environment: in .deepspeed_env)"
                )
    return ""


def gather_lines(runtime: Runtime, line: str) -> list[str]:
    """The line of every rank, in the order of ranks; collective."""
    if runtime.world_size == 1:
        return [line]
    data = line.encode()
    padded = torch.zeros(runtime.agree(len(data)), dtype=torch.uint8)
    padded[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    everywhere = [torch.empty_like(padded) for _ in range(runtime.world_size)]
    dist.all_gather(everywhere, padded, group=runtime.control)
    return [bytes(found.tolist()).rstrip(b"\0").decode() for found in everywhere]


def require_shared(runtime: Runtime, folder: Path) -> None:
    """RunFolderError on all ranks unless everyone sees what rank 0 writes into `folder`; collective."""
    if runtime.world_size == 1:
        return
    token = folder / f".shared-{runtime.agree(secrets.randbits(60) if runtime.rank == 0 else 0):015x}"
    try:
        with runtime.together("writing to the run folder"):
            if runtime.rank == 0:
                token.touch(exist_ok=False)
        with runtime.together("looking into the run folder"):
            if not _appears(token):
                raise RunFolderError(
                    f"run_dir: {folder}: node {os.uname().nodename} (rank {runtime.rank}) does not see what rank 0 "
                    "writes there; choose a folder that all nodes share"
                )
    finally:
        if runtime.rank == 0:
            with suppress(OSError):
                token.unlink()


def _appears(path: Path) -> bool:
    end = time.monotonic() + SEEN_SECONDS
    while not path.exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
