"""Steps replayed from recordings of ops: what is recorded when, what they leave, and why a run goes without them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from engine_fakes import FEATURES, Result, TinyBatch, TinyTask, tiny_config
from one_rank_engine import OneRankEngine, runtime, weights
from recorded_ops import OpRecorder

from engine.captured import MOST_COUNTED, MOST_GRAPHS, PLAIN_FIRST, Captured, build_compute, why_plain
from engine.compute import Plain
from engine.cuda_recorder import CudaRecorder
from engine.errors import StepGraphError
from engine.inputs import fill, form_of, held

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def batch_of(number: int, samples: int = 4) -> TinyBatch:
    generator = torch.Generator().manual_seed(number)
    x, y = torch.randn(samples, FEATURES, generator=generator), torch.randn(samples, 3, generator=generator)
    return TinyBatch(x=x, y=y, sample_ids=tuple(f"{number}-{sample}" for sample in range(samples)))


class Run:
    """A small task with a compute object; `step` takes one optimizer step."""

    def __init__(self, recorder: Any = None, task: TinyTask | None = None, world_size: int = 1, **more: Any) -> None:
        self.task = task or TinyTask()
        self.device = more.pop("device", CPU)
        self.engine = OneRankEngine(self.task.module.to(self.device), more.pop("accumulation", 1))
        here = runtime(world_size)
        self.compute: Any = Plain(self.engine, self.task, here, reason="as wanted")
        if recorder is not None:
            insist = more.pop("insist", True)
            self.compute = Captured(self.engine, self.task, here, recorder=recorder, insist=insist)

    def step(self, *batches: TinyBatch) -> list[Any]:
        results = self.compute([batch.to(self.device) for batch in batches], None)
        self.engine.step()
        return list(results)

    def state(self) -> list[torch.Tensor]:
        return weights(self.engine)


def assert_equal(found: Run, wanted: Run) -> None:
    assert all(map(torch.equal, found.state(), wanted.state()))


def test_results_stay_what_they_were() -> None:
    found, wanted = Run(OpRecorder()), Run()
    kept = [[result for number in range(8) for result in run.step(batch_of(number))] for run in (found, wanted)]
    assert found.compute.replayed_steps == 8 - PLAIN_FIRST
    for mine, theirs in zip(*kept, strict=True):
        assert torch.equal(mine.loss, theirs.loss) and not mine.loss.requires_grad
        assert all(torch.equal(mine.parts[name], theirs.parts[name]) for name in theirs.parts)
        assert torch.equal(mine.metrics["share"], theirs.metrics["share"])


def test_rare_forms_are_plain() -> None:
    recorder = OpRecorder()
    found, wanted = Run(recorder), Run()
    for samples in range(1, 7):
        for run in (found, wanted):
            for _ in range(PLAIN_FIRST):
                run.step(batch_of(samples, samples))
    assert not recorder.tapes and not found.compute.replayed_steps
    for run in (found, wanted):
        run.step(batch_of(9, 3))
    assert len(recorder.tapes) == 1
    assert_equal(found, wanted)


def test_forms_and_graphs_are_bounded() -> None:
    found = Run(OpRecorder())
    for samples in range(1, MOST_COUNTED + 9):
        found.step(batch_of(0, samples))
    assert len(found.compute._counts) == MOST_COUNTED
    for samples in range(1, MOST_GRAPHS + 4):
        for number in range(PLAIN_FIRST + 1):
            found.step(batch_of(number, samples))
    assert len(found.compute._graphs) == MOST_GRAPHS


def test_accumulation_adds_up_and_reduces_once_a_step() -> None:
    recorder = OpRecorder()
    found, wanted = Run(recorder, accumulation=3), Run(accumulation=3)
    for step in range(6):
        batches = [batch_of(10 * step + part) for part in range(3)]
        for run in (found, wanted):
            run.step(*batches)
    assert_equal(found, wanted)
    # One that writes gradients and one that adds to them.
    assert len(recorder.tapes) == 2
    assert wanted.engine.reductions == 6 and found.engine.reductions == PLAIN_FIRST, "nobody to reduce with"


def test_ranks_reduce_after_the_replay() -> None:
    found = Run(OpRecorder(), world_size=2, accumulation=2)
    for step in range(6):
        found.step(batch_of(step), batch_of(step + 50))
    assert found.engine.reductions == 6


def test_a_step_is_replayed_whole_or_not_at_all() -> None:
    recorder = OpRecorder()
    found, wanted = Run(recorder, accumulation=2), Run(accumulation=2)
    for step in range(9):
        second = batch_of(step + 50, 4 if step < 5 else step)
        for run in (found, wanted):
            run.step(batch_of(step), second)
    assert found.compute.replayed_steps == 5 - PLAIN_FIRST
    assert_equal(found, wanted)


class LazyTask(TinyTask):
    """Odd batches leave the stem without a gradient."""

    def forward(self, module: Any, batch: TinyBatch, statistics: None) -> Result:
        if batch.x.shape[0] % 2:
            loss = self.module.head(batch.x[:, :5]).square().sum()
            return Result(loss=loss, parts={"loss/image": loss.detach()}, metrics={})
        return super().forward(module, batch, statistics)


@pytest.mark.parametrize("first", [3, 4])
def test_parameters_without_a_gradient_have_zeros(first: int) -> None:
    found, wanted = Run(OpRecorder(), task=LazyTask()), Run(task=LazyTask())
    for step in range(12):
        for run in (found, wanted):
            run.step(batch_of(step, first + step % 2))
    assert found.compute.replayed_steps == 12 - 2 * PLAIN_FIRST
    assert_equal(found, wanted)


def test_suspended_steps_are_plain_and_go_on_from_there() -> None:
    found, wanted = Run(OpRecorder()), Run()
    for step in range(9):
        found.compute.suspended = step in (4, 5)
        for run in (found, wanted):
            run.step(batch_of(step))
    assert found.compute.replayed_steps == 9 - PLAIN_FIRST - 2
    assert_equal(found, wanted)


class WaitingTask(TinyTask):
    """Reads a number on the host, as no graph can."""

    def forward(self, module: Any, batch: TinyBatch, statistics: None) -> Result:
        assert float(batch.x.sum()) != 0
        return super().forward(module, batch, statistics)


def test_a_step_that_cannot_be_recorded_goes_on_plain(capsys: pytest.CaptureFixture[str]) -> None:
    found, wanted = Run(OpRecorder(), task=WaitingTask(), insist=False), Run()
    for step in range(8):
        for run in (found, wanted):
            run.step(batch_of(step))
    assert_equal(found, wanted)
    reason = "plain (recording failed: _local_scalar_dense waits for the device)"
    assert found.compute.live == reason
    assert capsys.readouterr().err == f"warning: rank 0: step: {reason}\n", "once"


def test_one_that_was_insisted_on_ends_the_run() -> None:
    found = Run(OpRecorder(), task=WaitingTask())
    with pytest.raises(StepGraphError, match=r"engine\.step_graph: always, but recording failed: _local_scalar"):
        for step in range(8):
            found.step(batch_of(step))


def test_a_recorded_host_value_is_seen_by_the_stand_in() -> None:
    """That is, these tests would notice a value of the first batch that is not in the form."""

    class ScaledTask(TinyTask):
        def forward(self, module: Any, batch: TinyBatch, statistics: None) -> Result:
            result = super().forward(module, batch, statistics)
            scale = float(batch.sample_ids[0].partition("-")[0])
            return Result(loss=result.loss * scale, parts={}, metrics={})

    found, wanted = Run(OpRecorder(), task=ScaledTask()), Run(task=ScaledTask())
    for step in range(5):
        for run in (found, wanted):
            run.step(batch_of(step))
    assert not all(map(torch.equal, found.state(), wanted.state()))


@pytest.mark.gpu
def test_a_cuda_graph_leaves_what_a_plain_step_does() -> None:
    found, wanted = Run(CudaRecorder(GPU), device=GPU, accumulation=2), Run(device=GPU, accumulation=2)
    for step in range(12):
        for run in (found, wanted):
            run.step(batch_of(step, 4 + step % 2), batch_of(step + 50))
    assert found.compute.replayed_steps == 12 - 2 * PLAIN_FIRST
    assert_equal(found, wanted)


@pytest.mark.gpu
def test_a_recording_that_the_driver_refuses_leaves_no_trace() -> None:
    task = WaitingTask()
    found, wanted = Run(CudaRecorder(GPU), device=GPU, task=task, insist=False), Run(device=GPU)
    stream = torch.cuda.current_stream(GPU)
    for step in range(8):
        for run in (found, wanted):
            run.step(batch_of(step))
    assert found.compute.live.startswith("plain (recording failed: ")
    assert torch.cuda.current_stream(GPU) == stream
    assert_equal(found, wanted)
    # Memory that another stream has used is given back only while nothing is recorded.
    used = torch.cuda.Stream(GPU)
    for _ in range(64):
        block = torch.empty(1 << 24, device=GPU)
        block.record_stream(used)
        del block
    torch.cuda.synchronize(GPU)
    torch.empty(1, device=GPU)
    assert torch.cuda.memory_allocated(GPU) < 1 << 28


@pytest.mark.parametrize(
    ("device", "changes", "collectives", "reason"),
    [
        (CPU, {}, False, "no GPU"),
        (GPU, {"zero_stage": 1}, False, "ZeRO 1 divides gradients during the backward"),
        (GPU, {}, True, "ranks add up expert choices during the forward"),
        (GPU, {}, False, None),
    ],
)
def test_reasons(device: torch.device, changes: Any, collectives: bool, reason: str | None, tmp_path: Path) -> None:
    task = TinyTask()
    task.forward_has_collectives = collectives
    assert why_plain(task, tiny_config(tmp_path, **changes), device) == reason


def test_anomaly_detection_is_a_reason(tmp_path: Path) -> None:
    with torch.autograd.set_detect_anomaly(True):
        assert why_plain(TinyTask(), tiny_config(tmp_path), GPU) == "anomaly detection looks at single ops"


@pytest.mark.parametrize(
    ("wish", "reason"), [("auto", "no GPU"), ("never", "engine.step_graph: never"), ("always", None)]
)
def test_what_is_wished_for(wish: str, reason: str | None, tmp_path: Path) -> None:
    here = SimpleNamespace(rank=0, world_size=1, device=CPU)
    config = tiny_config(tmp_path, step_graph=wish)
    task = TinyTask()
    if reason is None:
        with pytest.raises(StepGraphError, match=r"engine\.step_graph: always, but no GPU"):
            build_compute(OneRankEngine(task.module), task, config, here)
        return
    compute = build_compute(OneRankEngine(task.module), task, config, here)
    assert compute.live == f"plain ({reason})"


def test_copies_and_forms_of_nested_records() -> None:
    batch = batch_of(1)
    pair = (batch, {"counts": [batch.x, torch.arange(3)]})
    copy = held(pair)
    assert form_of(copy) == form_of(pair) and copy[0].sample_ids == batch.sample_ids
    assert copy[1]["counts"][0] is not copy[0].x
    fill(copy, held((batch_of(2), {"counts": [batch_of(2).x, torch.arange(3) + 1]})))
    assert torch.equal(copy[0].x, batch_of(2).x) and copy[1]["counts"][1].tolist() == [1, 2, 3]
    assert torch.equal(batch.x, batch_of(1).x)
    with pytest.raises(ValueError, match="zip"):
        fill(copy, (batch, None))
    assert form_of(batch_of(1, 3)) != form_of(batch)
    assert form_of((1, True)) != form_of((1, 1))
    with pytest.raises(TypeError):
        form_of({1: {2}})
