"""A rank on a CPU widens products of bf16 matrices exactly where the processor has none."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import sys
from engine import runtime

asked = []
runtime.are_missing = lambda: sys.argv[1] == "missing"
runtime.widen_products = lambda: asked.append("widened")
runtime.start_runtime().close()
print(*asked)
"""


@pytest.mark.parametrize(("products", "asked"), [("missing", "widened"), ("present", "")])
def test_a_rank_on_a_cpu(products: str, asked: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, products],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "DS_ACCELERATOR": "cpu"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1:] == ([asked] if asked else [""]), done.stdout
