"""The long lists of generated cases: 2000 forward and 500 backward for each kernel and dtype, in chunks of minutes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from harness.fuzz import fuzz
from harness.operation import Operation, dtypes_of, is_interpreted
from harness.table import OPERATIONS

FORWARD, BACKWARD = 2000, 500


def chunks() -> Iterator[object]:
    """Parameters (op, backend, dtype, backward, examples, number); the interpreter takes more and smaller chunks."""
    for op in OPERATIONS.values():
        for backend in op.rivals:
            parts = 5 if is_interpreted(backend) else 2
            for dtype in dtypes_of(op, backend):
                for backward, total in ((False, FORWARD), (True, BACKWARD if op.differentiable else 0)):
                    for part in range(parts if total else 0):
                        name = f"{op.name}-{backend}-{dtype}-{'backward' if backward else 'forward'}-{part}"
                        number = 100 + 2 * part + backward
                        yield pytest.param(op, backend, dtype, backward, total // parts, number, id=name)


@pytest.mark.deep
@pytest.mark.parametrize(("op", "backend", "dtype", "backward", "examples", "number"), list(chunks()))
def test_generated_cases(
    op: Operation, backend: str, dtype: torch.dtype, backward: bool, examples: int, number: int
) -> None:
    fuzz(op, backend, examples=examples, number=number, backward=backward, dtypes=(dtype,))
