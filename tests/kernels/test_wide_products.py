"""Products of bf16 matrices by fp32 ones, in a process of their own: what is set there stays."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import torch
from torch.library import Library
from kernels.wide_products import widen_products

first = widen_products()
assert isinstance(first, Library) and widen_products() is first
generator = torch.Generator().manual_seed(0)
draw = lambda *shape: torch.randn(*shape, generator=generator).bfloat16()
bias, left, right = draw(5, 7), draw(5, 300), draw(300, 7)
stacks = draw(2, 5, 7), draw(2, 5, 300), draw(2, 300, 7)

for added, one, other, plain, adding in (
    (bias, left, right, torch.mm, torch.addmm),
    (*stacks, torch.bmm, torch.baddbmm),
):
    wide = [value.float() for value in (added, one, other)]
    product = plain(*wide[1:])
    assert torch.equal(plain(one, other), product.bfloat16())
    assert torch.equal(adding(added, one, other), adding(*wide).bfloat16())
    assert torch.equal(adding(added, one, other, beta=0, alpha=0.5), (0.5 * product).bfloat16())
    for out in (torch.empty_like(added), torch.empty(0, dtype=torch.bfloat16)):
        assert plain(one, other, out=out) is out and torch.equal(out, product.bfloat16())
    # fp32 is as before, and types are not mixed.
    assert plain(*wide[1:]).dtype == torch.float32
    for mixed in ((wide[1], other), (one, wide[2])):
        try:
            plain(*mixed)
        except RuntimeError as error:
            assert "type" in str(error), error
        else:
            raise AssertionError("multiplied fp32 with bf16")

weight = draw(7, 300).requires_grad_()
inputs = left.clone().requires_grad_()
out = torch.nn.functional.linear(inputs, weight)
(gradients,) = {tuple(value.dtype for value in torch.autograd.grad(out, (inputs, weight), torch.ones_like(out)))}
assert out.dtype == torch.bfloat16 and gradients == (torch.bfloat16,) * 2
"""


def test_bf16_products_are_rounded_fp32_products() -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
