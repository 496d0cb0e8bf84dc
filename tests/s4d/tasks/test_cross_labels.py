"""Heads that learn from the other modality's labels: formula by hand, normaliser, who takes gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from s4d.config import Config
from s4d.data.batch import PackedBatch
from s4d.errors import UsageError
from s4d.tasks.cross_labels import cross_label_shares
from s4d.tasks.finetune import FinetuneTask
from s4d.tasks.shared_classes import shared_classes

CPU = torch.device("cpu")
WEIGHTS = {"image": 0.3, "video": 0.7}
CLASSES = {"faces": ("glad", "sad", "calm"), "clips": ("sad", "fear", "calm", "glad")}
MODALITIES = {"faces": "image", "clips": "video"}
# Columns of sad, calm and glad.
CLIPS, FACES = [0, 2, 3], [1, 2, 0]
STEP = {"image": 2, "video": 2}


@pytest.fixture
def crossed(config_of: Callable[..., Config]) -> Callable[..., FinetuneTask]:
    def build(weight: float, classes: dict[str, tuple[str, ...]] = CLASSES) -> FinetuneTask:
        config = config_of(loss={"cross_labels": weight})
        task = FinetuneTask(config, WEIGHTS, classes, rank=0, world_size=1, device=CPU)
        task.module.double()
        return task

    return build


def test_the_formula(crossed: Callable[..., FinetuneTask], batch_of: Callable[..., PackedBatch]) -> None:
    task, plain, batch = crossed(0.5), crossed(0.0), batch_of()
    found, before = task.forward(task.module, batch), plain.forward(plain.module, batch)
    logits = {name: value.detach() for name, value in task.module(batch).logits.items()}
    # Still 0 is glad, still 1 sad, clip 0 sad, clip 1 fear, each with 0.9 of its target, and 0.1 spread over all.
    stills = torch.full((2, 3), 0.1 / 3, dtype=torch.float64)
    stills[0, 2] += 0.9
    stills[1, 0] += 0.9
    clips = torch.full((2, 3), 0.1 / 4, dtype=torch.float64)
    clips[0, 0] += 0.9
    expected = {
        "image": -(stills * logits["clips"][:2, CLIPS].log_softmax(1)).sum() / 2,
        "video": -(clips * logits["faces"][2:, FACES].log_softmax(1)).sum() / 2,
    }
    for name, share in expected.items():
        torch.testing.assert_close(found.parts[f"cross/{name}"], share, rtol=1e-6, atol=0)
    extra = 0.5 * (0.3 * expected["image"] + 0.7 * expected["video"])
    torch.testing.assert_close(found.loss, before.loss + extra, rtol=1e-6, atol=0)
    assert not any(name.startswith("cross") for name in before.parts)


def test_stills_teach_the_head_of_clips(
    crossed: Callable[..., FinetuneTask], batch_of: Callable[..., PackedBatch]
) -> None:
    """All but the class that the stills do not have."""
    task, batch = crossed(1.0), batch_of(clips=range(0), step_samples={"image": 2, "video": 0})
    output = task.forward(task.module, batch)
    output.loss.backward()
    assert "cross/image" in output.parts and "cross/video" not in output.parts
    assert all(parameter.grad is not None for parameter in task.module.parameters())
    gradient = task.module.get_parameter("head.clips.weight").grad
    assert gradient is not None and gradient[CLIPS].any(1).all() and not gradient[1].any()


def test_gradient_in_float64(batch_of: Callable[..., PackedBatch]) -> None:
    batch, pairs = batch_of(), shared_classes(CLASSES, MODALITIES, CPU, field="loss.cross_labels")
    leaves = [torch.randn(4, len(names), dtype=torch.float64, requires_grad=True) for names in CLASSES.values()]

    def shares(*logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(cross_label_shares(dict(zip(CLASSES, logits, strict=True)), batch, pairs).values())

    assert torch.autograd.gradcheck(shares, leaves)


def test_heads_of_one_modality_share_a_sample(batch_of: Callable[..., PackedBatch]) -> None:
    """A second static head halves what each of them takes from a clip; stills of both teach the clips' head."""
    classes = {**CLASSES, "more": ("calm", "sad")}
    pairs = shared_classes(classes, {**MODALITIES, "more": "image"}, CPU, field="loss.cross_labels")
    logits = {name: torch.randn(4, len(names), dtype=torch.float64) for name, names in classes.items()}
    batch = batch_of()
    absent = type(batch.heads[0])(head="more", modality="image", sequences=torch.arange(0), targets=torch.zeros(0, 2))
    batch = type(batch)(**{name: getattr(batch, name) for name in batch.__slots__} | {"heads": (*batch.heads, absent)})
    both, alone = cross_label_shares(logits, batch, pairs), [cross_label_shares(logits, batch, (p,)) for p in pairs]
    torch.testing.assert_close(both["video"], (alone[0]["video"] + alone[1]["video"]) / 2)
    torch.testing.assert_close(both["image"], alone[0]["image"])


def test_off_is_the_same_to_the_bit(
    crossed: Callable[..., FinetuneTask], batch_of: Callable[..., PackedBatch], config_of: Callable[..., Config]
) -> None:
    before = FinetuneTask(config_of(), WEIGHTS, CLASSES, rank=0, world_size=1, device=CPU)
    before.module.double()
    task, batch = crossed(0.0), batch_of()
    assert torch.equal(task.forward(task.module, batch).loss, before.forward(before.module, batch).loss)


def test_cutting_a_step_changes_nothing(
    crossed: Callable[..., FinetuneTask], batch_of: Callable[..., PackedBatch]
) -> None:
    task = crossed(1.0)
    batches = [batch_of(range(i, i + 1), range(i, i + 1), step_samples=STEP) for i in range(2)]
    statistics = task.begin_step(task.module, batches)
    split = sum(task.forward(task.module, batch, statistics).loss for batch in batches)
    torch.testing.assert_close(split, task.forward(task.module, batch_of()).loss, rtol=1e-10, atol=0)


def test_heads_without_common_classes_are_refused(crossed: Callable[..., FinetuneTask]) -> None:
    with pytest.raises(UsageError, match=r"loss\.cross_labels: no head of clips shares two class names"):
        crossed(1.0, {"faces": ("a", "b", "c"), "clips": ("a", "q", "r", "s")})
