"""The static head as teacher of the clips' head: formula, who takes gradients, which classes meet."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn.functional import kl_div

from s4d.config import Config
from s4d.data.batch import PackedBatch
from s4d.errors import UsageError
from s4d.tasks.distillation import distillation_share
from s4d.tasks.finetune import FinetuneTask
from s4d.tasks.shared_classes import SharedClasses, shared_classes

CPU = torch.device("cpu")
WEIGHTS = {"image": 0.3, "video": 0.7}
CLASSES = {"faces": ("glad", "sad", "calm"), "clips": ("sad", "fear", "calm", "glad")}
MODALITIES = {"faces": "image", "clips": "video"}
# Columns of sad, calm and glad.
STUDENT, TEACHER = [0, 2, 3], [1, 2, 0]
STEP = {"image": 2, "video": 2}


def pairs_of(classes: dict[str, tuple[str, ...]], modalities: dict[str, str]) -> tuple[SharedClasses, ...]:
    return shared_classes(classes, modalities, CPU, field="loss.static_distillation")


@pytest.fixture
def taught(config_of: Callable[..., Config]) -> Callable[..., FinetuneTask]:
    def build(weight: float, classes: dict[str, tuple[str, ...]] = CLASSES) -> FinetuneTask:
        config = config_of(loss={"static_distillation": weight})
        task = FinetuneTask(config, WEIGHTS, classes, rank=0, world_size=1, device=CPU)
        task.module.double()
        return task

    return build


def test_the_formula(taught: Callable[..., FinetuneTask], batch_of: Callable[..., PackedBatch]) -> None:
    task, plain, batch = taught(2.0), taught(0.0), batch_of()
    found = task.forward(task.module, batch)
    logits = task.module(batch).logits
    teacher = logits["faces"][2:, TEACHER].softmax(1)
    expected = kl_div(logits["clips"][2:, STUDENT].log_softmax(1), teacher, reduction="batchmean").detach()
    torch.testing.assert_close(found.parts["distillation/video"], expected)
    torch.testing.assert_close(found.loss, plain.forward(plain.module, batch).loss + 0.7 * 2.0 * expected)


def test_only_the_student_learns(taught: Callable[..., FinetuneTask], batch_of: Callable[..., PackedBatch]) -> None:
    """Clips alone: their head and the features take a gradient, the static head and an unshared class none."""
    task, batch = taught(1.0), batch_of(images=range(0), step_samples={"image": 0, "video": 2})
    pairs = pairs_of(CLASSES, MODALITIES)
    distillation_share(task.module(batch).logits, batch, pairs).backward()
    grads = {name: parameter.grad for name, parameter in task.module.named_parameters()}
    assert grads["head.faces.weight"] is None or not grads["head.faces.weight"].any()
    student = grads["head.clips.weight"]
    assert student is not None and student[STUDENT].any() and not student[1].any()
    assert grads["blocks.0.mlp.fc1.weight"] is not None and grads["blocks.0.mlp.fc1.weight"].any()


def test_gradient_in_float64(batch_of: Callable[..., PackedBatch]) -> None:
    """With the teacher's logits held fixed, which is what it means that it is detached."""
    batch, pairs = batch_of(), pairs_of(CLASSES, MODALITIES)
    faces, clips = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda student: distillation_share({"faces": faces, "clips": student}, batch, pairs), (clips,)
    )
    agreeing = faces[:, [1, 0, 2, 0]].clone()
    # What the student gives to a class that the teacher lacks is not its business.
    agreeing[:, 1] = 9.0
    assert abs(distillation_share({"faces": faces, "clips": agreeing}, batch, pairs)) < 1e-12


def test_several_teachers_share_one_weight(batch_of: Callable[..., PackedBatch]) -> None:
    classes = {**CLASSES, "more": ("calm", "sad"), "strangers": ("x", "y")}
    modalities = {**MODALITIES, "more": "image", "strangers": "image"}
    pairs = pairs_of(classes, modalities)
    assert [(pair.video, pair.image) for pair in pairs] == [("clips", "faces"), ("clips", "more")]
    logits = {name: torch.randn(4, len(names), dtype=torch.float64) for name, names in classes.items()}
    batch = batch_of()
    alone = [distillation_share(logits, batch, (pair,)) for pair in pairs]
    torch.testing.assert_close(distillation_share(logits, batch, pairs), (alone[0] + alone[1]) / 2)


def test_off_is_the_same_to_the_bit(
    taught: Callable[..., FinetuneTask], batch_of: Callable[..., PackedBatch], config_of: Callable[..., Config]
) -> None:
    before = FinetuneTask(config_of(), WEIGHTS, CLASSES, rank=0, world_size=1, device=CPU)
    before.module.double()
    task, batch = taught(0.0), batch_of()
    assert torch.equal(task.forward(task.module, batch).loss, before.forward(before.module, batch).loss)
    assert not any(name.startswith("distillation") for name in task.forward(task.module, batch).parts)


def test_cutting_a_step_changes_nothing(
    taught: Callable[..., FinetuneTask], batch_of: Callable[..., PackedBatch]
) -> None:
    task = taught(1.0)
    batches = [batch_of(range(i, i + 1), range(i, i + 1), step_samples=STEP) for i in range(2)]
    statistics = task.begin_step(task.module, batches)
    split = sum(task.forward(task.module, batch, statistics).loss for batch in batches)
    torch.testing.assert_close(split, task.forward(task.module, batch_of()).loss, rtol=1e-10, atol=0)


@pytest.mark.parametrize("absent", ["images", "clips"])
def test_a_step_of_one_modality_reaches_every_parameter(
    taught: Callable[..., FinetuneTask], batch_of: Callable[..., PackedBatch], absent: str
) -> None:
    task = taught(1.0)
    samples = {"image": 0 if absent == "images" else 2, "video": 0 if absent == "clips" else 2}
    output = task.forward(task.module, batch_of(**{absent: range(0)}, step_samples=samples))
    output.loss.backward()
    assert all(parameter.grad is not None for parameter in task.module.parameters())
    assert ("distillation/video" in output.parts) == (absent == "images")


def test_heads_without_common_classes_are_refused(taught: Callable[..., FinetuneTask]) -> None:
    strangers = {"faces": ("a", "b", "c"), "clips": ("a", "q", "r", "s")}
    with pytest.raises(UsageError, match=r"loss\.static_distillation: no head of clips shares two class names"):
        taught(1.0, strangers)
    taught(0.0, strangers)
