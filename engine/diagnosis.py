"""What all ranks together find out about a step that was not finite, and what they keep of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from engine.agreement import gather_lines
from engine.first_bad import LAST, Finding, Search
from engine.protocols import Batch, RunConfig, Task
from engine.runtime import Runtime
from engine.step_dump import has_room, write_dump

FOLDER = "nonfinite"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Computes a bad step again on every rank, with the weights it had, and dumps the part of the rank to blame."""

    engine: Any
    task: Task
    config: RunConfig
    runtime: Runtime
    save_config: Callable[[Path], None]

    def __call__(self, step: int, batches: Sequence[Batch], *, own_loss_is_bad: bool) -> str:
        """One line about the first bad tensor of step `step` over all ranks, and about where it is kept; collective."""
        module = self.engine.module
        search = Search(self.task, module, batches)
        scale = float(self.runtime.world_size)
        found = search.run(scale=scale, agree=lambda good: not self.runtime.agree(0 if good else 1))
        self._let_go_of_gathered_weights()
        rank, text = self._first(found, own_loss_is_bad=own_loss_is_bad)
        return text + self._keep(step, batches, rank, text)

    def _first(self, found: Finding | None, *, own_loss_is_bad: bool) -> tuple[int, str]:
        """The rank with the earliest finding, and what it is."""
        mine = {
            "order": found.order if found else LAST,
            "text": found.text if found else "",
            "certain": found is not None and not found.is_guess,
            "bad_loss": own_loss_is_bad,
        }
        everywhere = [json.loads(line) for line in gather_lines(self.runtime, json.dumps(mine))]
        certain = [(report["order"], rank) for rank, report in enumerate(everywhere) if report["certain"]]
        bad_losses = [rank for rank, report in enumerate(everywhere) if report["bad_loss"]]
        if certain:
            rank = min(certain)[1]
        elif not bad_losses and everywhere[0]["text"]:
            rank = 0
        else:
            rank = min(bad_losses, default=0)
            return rank, f"rank {rank}: everything is finite when it is computed again, so the machine may have erred"
        return rank, f"rank {rank}: {everywhere[rank]['text']}"

    def _let_go_of_gathered_weights(self) -> None:
        # Without the engine's own backward nobody else would, where the weights are divided over the ranks.
        partition = getattr(self.engine.optimizer, "_partition_all_parameters", None)
        if partition is not None:
            partition()

    def _keep(self, step: int, batches: Sequence[Batch], rank: int, text: str) -> str:
        folder = Path(self.config.run_dir) / FOLDER
        name = f"step-{step:08d}-rank{rank}"
        if self.runtime.agree(int(not has_room(folder, name))):
            return ""
        weights = self._weights(keep=self.runtime.rank == rank)
        outcome = " "
        if self.runtime.rank == rank:
            record = {"step": step, "rank": rank, "found": text, **self._circumstances()}
            try:
                write_dump(folder / name, record, weights=weights, batches=batches, save_config=self.save_config)
                outcome = f"; kept in {folder / name}"
            except OSError as error:
                outcome = f"; cannot be kept in {folder / name}: {error.strerror or error}"
        return gather_lines(self.runtime, outcome)[rank].rstrip()

    def _circumstances(self) -> Mapping[str, Any]:
        return {
            "seed": self.config.seed,
            "world_size": self.runtime.world_size,
            "precision": self.config.engine.precision,
            "zero_stage": self.config.engine.zero_stage,
            "task": self.task.describe(),
        }

    def _weights(self, *, keep: bool) -> dict[str, Tensor]:
        """Weights and buffers by name as this rank computes with them, if it keeps them; collective where divided."""
        from deepspeed.runtime.zero.partition_parameters import GatheredParameters

        module = self.task.module
        tensors: dict[str, Tensor] = {}
        for name, value in module.named_parameters():
            with GatheredParameters([value], enabled=hasattr(value, "ds_tensor")):
                if keep:
                    tensors[name] = value.detach().to("cpu", copy=True)
        saved = set(module.state_dict().keys())
        return tensors | {name: value for name, value in module.named_buffers() if keep and name in saved}
