"""Our model given to torch's compiler, with torch's own attention and grouped products in place of our kernels.

Embedding, head and everything between the products are plain PyTorch that the compiler fuses. The loop around it is
the bare one.
"""

from __future__ import annotations

from typing import Any

import torch
import torch._dynamo

from kernels.bench.records import AbsentError
from s4d.analysis.step_peers.ours import BareLoop, LossModel
from s4d.analysis.step_peers.side import Side, Trial

_PLAIN = {"attention": "sdpa", "patch": "reference", "reconstruction": "reference"}
GROUPED = {**_PLAIN, "moae": "grouped"}
DENSE = {**_PLAIN, "moae": "dense_all"}


def compile_sdpa(trial: Trial, precision: str) -> Side:
    """Experts as grouped products of the chosen rows."""
    return _compiled(trial, precision, GROUPED)


def compile_dense(trial: Trial, precision: str) -> Side:
    """All experts on all tokens."""
    return _compiled(trial, precision, DENSE)


def dense_refuses(trial: Trial) -> str | None:
    """Why all experts on all tokens are no rival in a case."""
    if trial.case.shape.task == "pretrain":
        return "pre-training has no experts: this would be compile-sdpa again"
    if trial.device.type == "cpu":
        return "all experts on all tokens do four times the work, which only a GPU may hide"
    return None


def _compiled(trial: Trial, precision: str, backends: dict[str, str]) -> Side:
    """Compiled, and run once forward and backward, before it is returned; AbsentError if the compiler cannot."""
    model = LossModel(trial.model(backends)).train()
    torch._dynamo.reset()
    breaks = _graph_breaks()
    module: Any = torch.compile(model, dynamic=False)
    loop = BareLoop(module, list(model.parameters()), trial.batch, precision)
    try:
        module(trial.batch).backward()
    except Exception as error:
        text = next((line for line in str(error).splitlines() if line.strip()), "")
        raise AbsentError(f"torch.compile: {type(error).__name__}: {text.strip()[:200]}") from error
    model.zero_grad(set_to_none=True)
    return Side(step=loop.step, loss=loop.loss, notes={"graph_breaks": _graph_breaks() - breaks})


def _graph_breaks() -> int:
    return sum(torch._dynamo.utils.counters["graph_break"].values())
