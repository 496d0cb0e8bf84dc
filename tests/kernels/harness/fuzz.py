"""Generated cases: a seed names the whole list, so a test meets the same cases in every run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from harness.memory import NEAR
from harness.operation import IllConditionedError, Operation, check_case, dtypes_of, is_interpreted, refusal
from hypothesis import HealthCheck, Phase, given, reject, seed, settings
from hypothesis import strategies as st

from kernels.backends import BackendRefusedError


def fuzz(
    op: Operation,
    backend: str,
    *,
    examples: int,
    number: int,
    backward: bool,
    dtypes: tuple[torch.dtype, ...] | None = None,
) -> None:
    """Hold ``backend`` to the policy on list ``number`` of ``examples`` cases; a case it refuses is replaced.

    Failures are not made smaller, since that takes minutes in the interpreter: the error shows the case as it was.
    """
    usable = [dtype for dtype in dtypes or dtypes_of(op, backend) if refusal(op, backend, dtype) is None]
    if not usable:
        pytest.skip(refusal(op, backend, (dtypes or op.dtypes)[0]) or "no dtype")
    tried = replaced = 0

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        case=op.cases(is_interpreted(backend)),
        dtype=st.sampled_from(usable),
        placement=st.sampled_from(NEAR),
        steps=st.sampled_from((1, 1, 2)) if backward else st.just(1),
    )
    def attempt(case: Any, dtype: torch.dtype, placement: str, steps: int) -> None:
        nonlocal tried, replaced
        try:
            check_case(op, case, backend, dtype, backward=backward, placement=placement, steps=steps)
        except BackendRefusedError:
            reject()
        except IllConditionedError:
            replaced += 1
            reject()
        tried += 1

    attempt()
    assert tried == examples, f"only {tried} of {examples} cases could be tried"
    assert replaced <= examples // 4, f"plain PyTorch itself misses the RMS row on {replaced} cases beside {tried}"
