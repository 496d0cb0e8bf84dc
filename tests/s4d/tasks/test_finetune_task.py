from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from s4d.data.batch import PackedBatch
from s4d.tasks.balance import choice_counts
from s4d.tasks.finetune import FinetuneTask

STEP = {"image": 2, "video": 2}
Gradients = dict[str, torch.Tensor]


def step(task: FinetuneTask, batches: list[PackedBatch]) -> tuple[torch.Tensor, Gradients]:
    """Loss and gradients of one optimizer step over its micro batches."""
    task.module.zero_grad()
    statistics = task.begin_step(task.module, batches)
    total = torch.zeros((), dtype=torch.float64)
    for batch in batches:
        loss = task.forward(task.module, batch, statistics).loss
        loss.backward()
        total += loss.detach()
    return total, {name: p.grad.clone() for name, p in task.module.named_parameters() if p.grad is not None}


def assert_equal_gradients(first: Gradients, second: Gradients) -> None:
    assert set(first) == set(second)
    for name, gradient in first.items():
        torch.testing.assert_close(gradient, second[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("mode", ["moae", "multitask"])
@pytest.mark.parametrize("balance", ["switch", "release"])
def test_packed_equals_separate(
    task_of: Callable[..., FinetuneTask], batch_of: Callable[..., PackedBatch], mode: str, balance: str
) -> None:
    """With drop path and router noise: one packed step is the weighted sum of the two single-modality steps."""
    task = task_of(mode=mode, moae={"balance": balance, "balance_weight": 0.1})
    packed, gradients = step(task, [batch_of(drop_path=0.3)])
    # The weights apply to each modality's own loss, so the separate steps carry them already.
    parts = [
        step(task, [batch_of(clips=range(0), drop_path=0.3, step_samples={"image": 2, "video": 0})]),
        step(task, [batch_of(images=range(0), drop_path=0.3, step_samples={"image": 0, "video": 2})]),
    ]
    torch.testing.assert_close(packed, parts[0][0] + parts[1][0], rtol=1e-10, atol=0)
    assert_equal_gradients(gradients, {name: parts[0][1][name] + parts[1][1][name] for name in gradients})


@pytest.mark.parametrize("balance", ["switch", "release"])
def test_accumulation_changes_nothing(
    task_of: Callable[..., FinetuneTask], batch_of: Callable[..., PackedBatch], balance: str
) -> None:
    """The balance term counts the choices of the whole step, however it is cut into micro batches."""
    task = task_of(moae={"balance": balance, "balance_weight": 0.5})
    whole, gradients = step(task, [batch_of(drop_path=0.3)])
    split, split_gradients = step(
        task,
        [
            batch_of(range(1), range(1), drop_path=0.3, step_samples=STEP),
            batch_of(range(1, 2), range(1, 2), drop_path=0.3, step_samples=STEP),
        ],
    )
    torch.testing.assert_close(whole, split, rtol=1e-10, atol=0)
    assert_equal_gradients(gradients, split_gradients)


def test_local_counts_would_give_another_balance(
    task_of: Callable[..., FinetuneTask], batch_of: Callable[..., PackedBatch]
) -> None:
    """What the counting forward is for: without it the split step has another loss."""
    task = task_of(moae={"balance_weight": 0.5})
    halves = [batch_of(range(i, i + 1), range(i, i + 1), step_samples=STEP) for i in range(2)]
    whole, _ = step(task, [batch_of()])
    local = sum(task.forward(task.module, half, None).loss.detach() for half in halves)
    assert abs(local - whole) > 1e-4


def test_every_parameter_gets_a_gradient(
    task_of: Callable[..., FinetuneTask], batch_of: Callable[..., PackedBatch]
) -> None:
    task = task_of()
    _, gradients = step(task, [batch_of(clips=range(0), step_samples={"image": 2, "video": 0})])
    assert set(gradients) == {name for name, _ in task.module.named_parameters()}
    assert not gradients["head.clips.weight"].any() and gradients["head.faces.weight"].any()


def test_routers_move(task_of: Callable[..., FinetuneTask], batch_of: Callable[..., PackedBatch]) -> None:
    for balance_weight in (0.0, 0.1):
        _, gradients = step(task_of(moae={"balance_weight": balance_weight}), [batch_of()])
        for kind in ("router_weight", "router_bias", "noise_weight", "noise_bias", "fc1_weight", "fc2_bias"):
            assert gradients[f"blocks.1.moae.{kind}"].any(), kind


def test_the_balance_term_prefers_even_load(
    task_of: Callable[..., FinetuneTask], batch_of: Callable[..., PackedBatch]
) -> None:
    task = task_of(moae={"router_noise": "off"})
    batch = batch_of()
    before = task.forward(task.module, batch).parts["balance/video"]
    with torch.no_grad():
        for block in task.module.blocks[1:]:  # type: ignore[index]
            block.moae.router_bias[:2] += 3
    after = task.forward(task.module, batch).parts["balance/video"]
    # Two layers with about even load give 1 each; two of four experts taking everything give nearly 2 each.
    assert 1.8 < before < 2.8 and after > 3.5


def test_the_released_balance_formula(
    task_of: Callable[..., FinetuneTask], batch_of: Callable[..., PackedBatch]
) -> None:
    task, batch = task_of(moae={"balance": "release"}), batch_of()
    parts = task.forward(task.module, batch).parts
    expected = torch.zeros((), dtype=torch.float64)
    for terms in task.module(batch).routing:
        logits = terms.router_logits[8:].view(2, 8, 4)
        chosen = torch.nn.functional.one_hot(terms.expert_ids[8:], 4).sum(1).double().view(2, 8, 4)
        expected += (chosen.mean(1) * logits.mean(1)).mean() * 16
    torch.testing.assert_close(parts["balance/video"], expected)


def test_metrics_and_parts(task_of: Callable[..., FinetuneTask], batch_of: Callable[..., PackedBatch]) -> None:
    task, batch = task_of(moae={"balance_weight": 0.5}), batch_of()
    output = task.forward(task.module, batch)
    parts = output.parts
    terms = [0.3 * parts["loss/image"], 0.7 * parts["loss/video"]]
    terms += [0.15 * parts["balance/image"], 0.35 * parts["balance/video"]]
    torch.testing.assert_close(output.loss, torch.stack(terms).sum())
    logits = task.module(batch).logits
    for head, modality in ((0, "image"), (1, "video")):
        target = batch.heads[head]
        expected = torch.nn.functional.cross_entropy(logits[target.head][target.sequences], target.targets.double())
        torch.testing.assert_close(parts[f"loss/{modality}"], expected)
        assert output.metrics[f"accuracy/{modality}"] in (0, 0.5, 1)


@pytest.mark.parametrize("mode", ["moae", "multitask"])
def test_the_loss_falls(task_of: Callable[..., FinetuneTask], batch_of: Callable[..., PackedBatch], mode: str) -> None:
    task, batch = task_of(mode=mode), batch_of()
    optimizer = torch.optim.AdamW(task.module.parameters(), lr=1e-3)
    losses = []
    for _ in range(10):
        loss = task.forward(task.module, batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_layers_and_rates(task_of: Callable[..., FinetuneTask]) -> None:
    task = task_of(moae={"lr_multiplier": 5.0})
    assert task.num_layers == 4
    assert [task.layer_of(f"blocks.{i}.mlp.fc1.weight") for i in range(3)] == [1, 2, 3]
    assert task.layer_of("patch_embed.proj.bias") == 0
    assert task.layer_of("fc_norm.weight") == task.layer_of("head.faces.bias") == 4
    assert task.layer_of("blocks.1.moae.fc1_weight") is None
    assert task.lr_multiplier("blocks.1.moae.fc1_weight") == 5.0 and task.lr_multiplier("blocks.1.mlp.fc1.bias") == 1.0
    assert task_of(moae={"layer_decay": True}).layer_of("blocks.1.moae.fc1_weight") == 2


def test_describe(task_of: Callable[..., FinetuneTask]) -> None:
    import json

    text = json.dumps(task_of().describe())
    described = json.loads(text)
    assert described["classes"] == {"faces": ["a", "b", "c"], "clips": ["p", "q", "r", "s"]}
    assert described["architecture"]["experts"]["layers"] == [1, 2] and described["stage"] == "finetune"
    assert {name: inputs["modality"] for name, inputs in described["inputs"].items()} == {
        "faces": "image",
        "clips": "video",
    }


def test_ranks_share_one_balance(
    task_of: Callable[..., FinetuneTask], batch_of: Callable[..., PackedBatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ranks with half a step each: with counts summed over ranks their shares add up to the whole step."""
    task = task_of(moae={"balance_weight": 0.5})
    whole, gradients = step(task, [batch_of(drop_path=0.3)])
    halves = [batch_of(range(i, i + 1), range(i, i + 1), drop_path=0.3, step_samples=STEP) for i in range(2)]
    counts = torch.stack([choice_counts(task.module(half).routing) for half in halves]).sum(0)
    monkeypatch.setattr("s4d.tasks.finetune.sum_over_ranks", lambda local: counts)
    shares = [step(task, [half]) for half in halves]
    torch.testing.assert_close(whole, shares[0][0] + shares[1][0], rtol=1e-10, atol=0)
    assert_equal_gradients(gradients, {name: shares[0][1][name] + shares[1][1][name] for name in gradients})
