"""Every backend of every op against float64 on generated cases, amid poisoned memory."""

from __future__ import annotations

import pytest
import torch
from harness.fuzz import fuzz
from harness.memory import NEAR
from harness.operation import Operation, check_case, dtypes_of, is_interpreted, refusal
from harness.table import pairs


@pytest.mark.parametrize(("op", "backend"), pairs())
def test_edges(op: Operation, backend: str) -> None:
    """Sizes 0 and 1 and the corners of every rule, in every dtype; in the interpreter, dtypes take turns."""
    tried = 0
    for dtype in dtypes_of(op, backend):
        reason = refusal(op, backend, dtype)
        if reason is not None:
            continue
        for number, case in enumerate(op.edges):
            if is_interpreted(backend) and (number + (dtype == torch.float16)) % 2:
                continue
            check_case(op, case, backend, dtype, placement=NEAR[number % len(NEAR)], steps=1 + number % 2)
            tried += 1
    if not tried:
        pytest.skip(refusal(op, backend, torch.float32) or "no dtype")


@pytest.mark.parametrize(("op", "backend"), pairs())
def test_forward(op: Operation, backend: str) -> None:
    fuzz(op, backend, examples=20 if is_interpreted(backend) else 100, number=0, backward=False)


@pytest.mark.parametrize(("op", "backend"), pairs())
def test_forward_and_backward(op: Operation, backend: str) -> None:
    fuzz(op, backend, examples=8 if is_interpreted(backend) else 30, number=1, backward=True)
