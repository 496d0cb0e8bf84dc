from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from engine.adamw import WholeAdamW

SETTINGS = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8}


def weights() -> list[nn.Parameter]:
    torch.manual_seed(0)
    found = [nn.Parameter(torch.randn(shape)) for shape in ((16, 24), (24,), (3, 8, 8))]
    for value in found:
        value.grad_dtype = None
    return found


def with_state(values: list[nn.Parameter], max_norm: float | None) -> WholeAdamW:
    groups = [{"params": values[:1], "weight_decay": 0.1}, {"params": values[1:], "weight_decay": 0.0}]
    optimizer = WholeAdamW(groups, max_norm=max_norm, **SETTINGS)
    for value in values:
        moments = {name: torch.zeros_like(value) for name in ("exp_avg", "exp_avg_sq")}
        optimizer.state[value] = {"step": torch.zeros(()), **moments}
    return optimizer


def gradients(step: int) -> list[Tensor]:
    torch.manual_seed(step)
    return [torch.randn(value.shape).bfloat16() for value in weights()]


@pytest.mark.parametrize("max_norm", [None, 0.5, 100.0])
def test_narrow_gradients_update_as_wide_ones_do(max_norm: float | None) -> None:
    narrow, wide = weights(), weights()
    first, second = with_state(narrow, max_norm), with_state(wide, max_norm)
    for step in range(3):
        for value, other, gradient in zip(narrow, wide, gradients(step), strict=True):
            value.grad, other.grad = gradient if value.ndim > 1 else gradient.float(), gradient.float()
        norms = first.measure(), second.measure()
        torch.testing.assert_close(*norms, rtol=1e-6, atol=0)
        # One norm for both: what differs then is the update.
        second.grad_scale = first.grad_scale
        first.step()
        second.step()
    for value, other in zip(narrow, wide, strict=True):
        assert torch.equal(value, other)
        assert all(torch.equal(first.state[value][key], second.state[other][key]) for key in second.state[other])


def test_clipping_is_that_of_gradients_clipped_before() -> None:
    ours, theirs = weights(), weights()
    whole, plain = with_state(ours, 0.5), torch.optim.AdamW(theirs, fused=True, weight_decay=0.0, **SETTINGS)
    whole.param_groups[0]["weight_decay"] = 0.0
    for step in range(3):
        for value, other, gradient in zip(ours, theirs, gradients(step), strict=True):
            value.grad, other.grad = gradient.float(), gradient.float()
        expected = torch.nn.utils.clip_grad_norm_(theirs, 0.5)
        torch.testing.assert_close(whole.measure(), expected, rtol=1e-6, atol=0)
        whole.step()
        plain.step()
    for value, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-5, atol=1e-6)


def test_a_bad_step_touches_nothing() -> None:
    values = weights()
    optimizer = with_state(values, 1.0)
    for value, gradient in zip(values, gradients(0), strict=True):
        value.grad = gradient
    values[0].grad[0, 0] = float("nan")  # type: ignore[index]
    before = [value.detach().clone() for value in values]
    assert optimizer.measure().isnan()
    optimizer.found_inf = torch.ones(())  # type: ignore[attr-defined]
    optimizer.step()
    assert all(torch.equal(value, old) for value, old in zip(values, before, strict=True))
    assert all(float(state["step"]) == 0 and not state["exp_avg"].any() for state in optimizer.state.values())
