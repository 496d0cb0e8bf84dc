from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from engine.half import HalfForward
from engine.recompute import layers_of, recompute, spread_evenly

WIDTH = 16


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.calls = 0

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        y = self.linear(x)
        return x + y.tanh(), y.detach().argmax(1)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(6))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x, _ = layer(x)
        return x.float().square().mean()

    def calls(self) -> list[int]:
        return [layer.calls for layer in self.layers if isinstance(layer, Layer)]


@pytest.mark.parametrize(
    ("share", "calls"),
    [(0.0, [1] * 6), (0.5, [1, 2] * 3), (1 / 3, [1, 1, 2] * 2), (0.7, [1, 2, 2, 1, 2, 2]), (1.0, [2] * 6)],
)
@pytest.mark.parametrize("half", [False, True])
def test_the_share_of_layers_runs_twice_and_gradients_are_the_same(share: float, calls: list[int], half: bool) -> None:
    torch.manual_seed(0)
    models = Model(), Model()
    models[1].load_state_dict(models[0].state_dict())
    again = spread_evenly(layers_of(models[0]), share)
    if half:
        HalfForward(models[0], again)
        HalfForward(models[1])
    recompute(again)
    x = torch.randn(8, WIDTH, dtype=torch.bfloat16 if half else torch.float32)
    for model in models:
        model(x).backward()
    assert models[0].calls() == calls and models[1].calls() == [1] * 6
    for weight, like in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert weight.grad is not None and like.grad is not None and torch.equal(weight.grad, like.grad)


def test_nothing_runs_twice_without_gradients() -> None:
    model = Model()
    recompute(layers_of(model))
    with torch.no_grad():
        model(torch.randn(8, WIDTH))
    assert model.calls() == [1] * 6
