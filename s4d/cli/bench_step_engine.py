"""Our side of the step benchmark as a user runs it: the model wrapped by DeepSpeed, in a process group of one rank."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from kernels.bench.records import AbsentError
from s4d.analysis.step_peers.ours import LossModel
from s4d.analysis.step_peers.side import Side, StepPeer, Trial
from s4d.analysis.step_peers.table import HALF

if TYPE_CHECKING:
    from engine.runtime import Runtime

# One rank has nothing to shard, and every other stage copies all gradients and weights once more.
ZERO_STAGE = 0


class EngineSides:
    """Builds sides on one engine runtime, which is started for the first of them."""

    def __init__(self) -> None:
        self._runtime: Runtime | None = None

    @property
    def peer(self) -> StepPeer:
        """The row of the table of sides."""
        return StepPeer(name="engine", precisions=HALF, build=self.build, ours=True)

    def start(self) -> Runtime:
        """The runtime of this process; AbsentError without DeepSpeed."""
        if self._runtime is None:
            try:
                from engine.runtime import start_runtime

                self._runtime = start_runtime()
            except ImportError as error:
                raise AbsentError(f"the engine cannot be imported: {error}") from error
        return self._runtime

    def build(self, trial: Trial, precision: str) -> Side:
        """The model under `engine.ds_engine`; AdamW and the gradient norm are DeepSpeed's to call."""
        runtime = self.start()
        from engine.captured import build_compute
        from engine.ds_engine import build_engine
        from engine.footprint import Case
        from s4d.cli.bench_zero_rank import Work, run_config

        class LossWork(Work):
            forward_has_collectives = False

            def forward(self, module: Any, batch: Any, statistics: None) -> Any:
                return SimpleNamespace(loss=module(batch), parts={}, metrics={})

        config = run_config(Case(stage=ZERO_STAGE, world_size=1, precision=precision))
        work: Any = LossWork(module=LossModel(trial.model()).train())
        engine, _ = build_engine(work, config, runtime)
        compute = build_compute(engine, work, config, runtime)
        notes = {"zero_stage": ZERO_STAGE, "step": compute.live}

        def step() -> None:
            compute([trial.batch], None)
            engine.step()
            notes["step"] = compute.live

        def loss() -> float:
            with torch.no_grad():
                return float(engine.module(trial.batch))

        return Side(step=step, loss=loss, notes=notes, close=engine.destroy)

    def close(self) -> None:
        """Leave the process group."""
        if self._runtime is not None:
            self._runtime.close()
            self._runtime = None
