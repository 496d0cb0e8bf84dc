"""Every op of the kernels package, and every pair of op and backend; a new row of a table appears here by itself."""

from __future__ import annotations

import pytest
from harness.attention_cases import ATTENTION
from harness.moae_cases import MOAE
from harness.patch_cases import PATCH
from harness.plan_cases import MOAE_PLAN
from harness.reconstruction_cases import RECONSTRUCTION

OPERATIONS = {op.name: op for op in (ATTENTION, MOAE, MOAE_PLAN, PATCH, RECONSTRUCTION)}


def pairs(*, definitions: bool = False) -> list[object]:
    """Parameters (op, backend) of all backends, the definitions too if asked for."""
    return [
        pytest.param(op, backend, id=f"{op.name}-{backend}")
        for op in OPERATIONS.values()
        for backend in (op.backends if definitions else op.rivals)
    ]
