from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.half import HalfForward

WIDTH, ROWS = 32, 200


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.wide = nn.Linear(WIDTH, 4 * WIDTH)
        self.back = nn.Linear(4 * WIDTH, WIDTH)
        self.register_buffer("shift", torch.linspace(0, 1, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x)
        # Read by two products, and by one as a view.
        branch: Tensor = self.back(F.gelu(self.wide(y))) + self.back(F.gelu(self.wide(y.view(1, ROWS, WIDTH)[0])))
        return x + branch + self.shift


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for layer in self.layers:
            x = layer(x)
        return x.float().square().mean()


@pytest.fixture
def pair() -> tuple[Model, Model]:
    torch.manual_seed(0)
    model, other = Model(), Model()
    other.load_state_dict(model.state_dict())
    return model, other


def in_bf16_all_at_once(model: Model, x: Tensor) -> Tensor:
    given = [*model.named_parameters(), *model.named_buffers()]
    return torch.func.functional_call(model, {name: value.to(torch.bfloat16) for name, value in given}, (x,))


def test_loss_and_gradients_are_those_of_weights_rounded_at_once(pair: tuple[Model, Model]) -> None:
    model, other = pair
    x = torch.randn(ROWS, WIDTH).bfloat16()
    loss, expected = HalfForward(model)(x), in_bf16_all_at_once(other, x)
    loss.backward()
    expected.backward()
    assert torch.equal(loss, expected)
    for (name, weight), like in zip(model.named_parameters(), other.parameters(), strict=True):
        assert weight.dtype == torch.float32 and weight.grad is not None and like.grad is not None, name
        assert weight.grad.dtype == torch.float32 and torch.equal(weight.grad, like.grad), name


def test_a_layer_keeps_neither_copies_of_weights_nor_norms() -> None:
    half = HalfForward(Model())
    kept: list[Tensor] = []
    x = torch.randn(ROWS, WIDTH).bfloat16().requires_grad_()
    loss = half(x)
    pending, seen = [loss.grad_fn], set()
    while pending:
        node: Any = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        kept += [value for name in dir(node) if name.startswith("_raw_saved_") for value in [getattr(node, name)]]
        pending += [following for following, _ in node.next_functions]
    forms = [type(raw.data).__name__ for raw in kept if hasattr(raw, "data")]
    # Of three layers: two weights and a norm, each read twice, and the norm's own weights.
    assert forms.count("_Kept") == 3 * (3 * 2 + 2), forms


def test_weights_are_back_after_a_forward_that_fails(pair: tuple[Model, Model]) -> None:
    model, other = pair
    with pytest.raises(RuntimeError):
        HalfForward(model)(torch.randn(ROWS, WIDTH + 1).bfloat16())
    for (name, value), like in zip(model.state_dict().items(), other.state_dict().items(), strict=True):
        assert torch.equal(value, like[1]), name
    assert all(isinstance(weight, nn.Parameter) for layer in model.modules() for weight in layer._parameters.values())


def test_gradients_stay_narrow_until_there_is_something_to_add(pair: tuple[Model, Model]) -> None:
    model, other = pair
    narrow, wide = HalfForward(model, narrow=True), HalfForward(other)
    matrices = [value for layer in model.layers for value in layer.parameters() if value.ndim > 1]
    for number in range(3):
        x = torch.randn(ROWS, WIDTH).bfloat16()
        narrow(x).backward()
        wide(x).backward()
        kept = {value.grad.dtype for value in matrices if value.grad is not None}
        assert kept == {torch.bfloat16 if number == 0 else torch.float32}
        for value, expected in zip(model.parameters(), other.parameters(), strict=True):
            assert value.grad is not None and expected.grad is not None
            assert torch.equal(value.grad.float(), expected.grad)
