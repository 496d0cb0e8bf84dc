"""Real models under the profiler: every part is found forward and backward, and slowness shows where it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

from kernels.bench.memory import quiet_stderr
from s4d.analysis.step_profile.attribution import Label
from s4d.analysis.step_profile.document import divided
from s4d.analysis.step_profile.marks import PREFIX, STEP, Marks, marked_calls, marked_model
from s4d.analysis.step_profile.timeline import IDLE
from s4d.analysis.step_profile.trace import Trace, read_trace
from s4d.data.batch import PackedBatch
from s4d.errors import DataError
from s4d.models import vit
from s4d.models.build import build_finetune, build_pretrain
from s4d.models.classifier import FinetuneModel
from s4d.models.mae import PretrainModel

MASKED = {"image": 2, "video": 6}
DECODER = {"decoder attention", "decoder linear"}
COMMON = {"embed", "encoder attention", "encoder linear", "head and loss"}
PAUSE = 0.2


def loss_of(model: Any, batch: PackedBatch) -> Tensor:
    output = model(batch)
    values = output.values() if isinstance(output, dict) else output.logits.values()
    return torch.stack([value.float().sum() for value in values]).sum()


def traced(model: nn.Module, batch: PackedBatch, folder: Path) -> Trace:
    marks = Marks()
    loss_of(model, batch).backward()
    with marked_model(model, marks):
        marks.active = True
        record = profile(activities=[ProfilerActivity.CPU])
        with quiet_stderr():
            record.start()
        with record_function(PREFIX + STEP):
            with marks.inside("head and loss"):
                loss = loss_of(model, batch)
            with marks.inside("backward"):
                loss.backward()
        with quiet_stderr():
            record.stop()
    record.export_chrome_trace(str(folder / "trace.json"))
    return read_trace(folder / "trace.json")


@pytest.fixture
def pretrain(architecture_of: Callable[..., Any]) -> PretrainModel:
    return build_pretrain(architecture_of(), 0)


@pytest.fixture
def finetune(architecture_of: Callable[..., Any], experts_of: Callable[..., Any]) -> FinetuneModel:
    return build_finetune(architecture_of(experts=experts_of()), {"faces": 3, "clips": 4}, 0)


def test_parts_of_pretraining(pretrain: PretrainModel, batch_of: Callable[..., PackedBatch], tmp_path: Path) -> None:
    found, _ = divided(traced(pretrain, batch_of(masked=MASKED), tmp_path), on_gpu=False)
    for phase in ("forward", "backward"):
        assert {label.part for label in found if label.phase == phase} - {"backward"} == COMMON | DECODER


def test_parts_of_finetuning(finetune: FinetuneModel, batch_of: Callable[..., PackedBatch], tmp_path: Path) -> None:
    trace = traced(finetune, batch_of(), tmp_path)
    found, python = divided(trace, on_gpu=False)
    for phase in ("forward", "backward"):
        assert {label.part for label in found if label.phase == phase} - {"backward"} == COMMON | {"moae"}
    (step,) = [span for span in trace.spans if span.name == PREFIX + STEP]
    assert sum(found.values()) == pytest.approx(1e-6 * (step.end - step.start), rel=1e-9), "all time, once"
    assert 0 < python < sum(found.values()) - found[IDLE]


def test_what_lies_between_parts_has_one(
    pretrain: PretrainModel, finetune: FinetuneModel, batch_of: Callable[..., PackedBatch]
) -> None:
    expected: list[tuple[nn.Module, str]] = [
        (pretrain.encoder.patch_embed.proj, "embed"),
        (pretrain.encoder.norm, "encoder linear"),
        (pretrain.encoder_to_decoder, "decoder linear"),
        (pretrain.decoder.norm, "decoder linear"),
        (pretrain.decoder.head, "head and loss"),
        (finetune.patch_embed.proj, "embed"),
        (finetune.blocks[0].norm1, "encoder linear"),
        (finetune.blocks[2].mlp, "encoder linear"),
        (finetune.fc_norm, "head and loss"),
        (finetune.head["faces"], "head and loss"),
    ]
    marks, seen = Marks(), {}
    for model, batch in ((pretrain, batch_of(masked=MASKED)), (finetune, batch_of())):
        with marked_model(model, marks):
            for module, _ in expected:
                module.register_forward_pre_hook(lambda owner, _: seen.__setitem__(owner, marks.part))
            marks.active = True
            loss_of(model, batch)
            marks.active = False
        assert marks.part == "", "all marks are closed"
    assert [seen[module] for module, _ in expected] == [part for _, part in expected]


class SlowBackward(torch.autograd.Function):
    """Passes values on, and gradients after a pause."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        time.sleep(PAUSE)
        return gradient


@pytest.mark.parametrize(("place", "part"), [("decoder", "decoder linear"), ("encoder", "encoder linear")])
def test_a_slow_backward_shows_in_its_part_alone(
    pretrain: PretrainModel, batch_of: Callable[..., PackedBatch], tmp_path: Path, place: str, part: str
) -> None:
    mlp = getattr(pretrain, place).blocks[0].mlp
    inner = mlp.forward
    mlp.forward = lambda x: SlowBackward.apply(inner(x))
    found, _ = divided(traced(pretrain, batch_of(masked=MASKED), tmp_path), on_gpu=False)
    slow = Label(part, "backward")
    assert found[slow] >= PAUSE
    assert max(seconds for label, seconds in found.items() if label != slow) < PAUSE


def test_nothing_is_left_behind(pretrain: PretrainModel) -> None:
    attend = vit.varlen_attention  # type: ignore[attr-defined]
    with marked_model(pretrain, Marks()), pytest.raises(RuntimeError, match="in the step"):
        raise RuntimeError("in the step")
    assert vit.varlen_attention is attend  # type: ignore[attr-defined]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in pretrain.modules())


def test_calls_are_marked_where_they_exist() -> None:
    class Owner:
        def there(self) -> str:
            return marks.part

    marks, owner = Marks(), Owner()
    marks.active = True
    with marked_calls([(owner, "there", "communication"), (owner, "absent", "optimizer"), (None, "x", "y")], marks):
        assert owner.there() == "communication"
    assert owner.there() == "" and not vars(owner)


def test_a_model_of_another_kind_is_refused() -> None:
    with (
        pytest.raises(TypeError, match="expected PretrainModel or FinetuneModel"),
        marked_model(nn.Linear(1, 1), Marks()),
    ):
        pass


def test_a_file_that_is_no_trace_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    for text in ("[]", "{}", "no json", '{"traceEvents": [{"cat": "kernel"}]}'):
        path.write_text(text)
        with pytest.raises(DataError, match=r"trace\.json: no trace of torch\.profiler"):
            read_trace(path)
