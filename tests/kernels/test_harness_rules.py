"""Rules of the kernels' tests and of kernel arithmetic: one tolerance policy, and no half-precision arithmetic."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from harness.operation import Operation, execute, is_interpreted, refusal
from harness.table import pairs

HERE = Path(__file__).resolve().parent
OP_TESTS = sorted(
    path for path in HERE.glob("test_*.py") if not path.name.startswith(("test_numerics", "test_bench", "test_harness"))
)

# Tolerances up to here can only be meant for float64, which the policy does not cover.
FLOAT64 = 1e-10
COMPARISONS = {"assert_close", "allclose", "isclose", "approx"}
KEYWORDS = {"atol", "rtol", "rel", "abs"}


def loose_tolerances(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of each comparison whose own tolerance is wider than float64 needs, or left to a default.

    A comment in the call or on the three lines above states the reason and makes it right.
    """
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or _called(node) not in COMPARISONS:
            continue
        given = [keyword.value for keyword in node.keywords if keyword.arg in KEYWORDS]
        if given and all(_is_tight(value) for value in given):
            continue
        last = node.end_lineno or node.lineno
        if any("#" in line for line in lines[max(0, node.lineno - 4) : last]):
            continue
        yield node.lineno, ast.unparse(node)


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _is_tight(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and isinstance(value.value, int | float) and value.value <= FLOAT64


# How many comparisons of each file are none of a kernel with its definition: statistics, traced against eager, a still
# against a clip, one step against two. A new one belongs under kernels.numerics.check or gets its measured reason.
REASONED = {
    "test_attention.py": 1,
    "test_attention_libraries.py": 1,
    "test_moae.py": 7,
    "test_moae_triton.py": 2,
    "test_moae_triton_router.py": 2,
    "test_native_reconstruction.py": 4,
    "test_patch.py": 6,
    "test_patch_triton.py": 2,
    "test_philox.py": 2,
    "test_reconstruction.py": 4,
    "test_reconstruction_triton.py": 2,
}


@pytest.mark.parametrize("path", OP_TESTS, ids=lambda path: path.name)
def test_tolerances_come_from_the_policy(path: Path) -> None:
    found = [f"{line}: {text}" for line, text in loose_tolerances(path.read_text(encoding="utf-8"))]
    assert len(found) <= REASONED.get(path.name, 0), "\n".join(found)


def test_the_policy_is_not_widened_by_a_test() -> None:
    """UNIT and RMS_BOUND are read, never set."""
    for path in OP_TESTS:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store):
                assert not {"UNIT", "RMS_BOUND"} & {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}, path.name


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("assert_close(a, b, rtol=1e-12, atol=0)", 0),
        ("# far away\n\n\n\nassert_close(a, b, rtol=1e-2)", 1),
        ("assert_close(a, b, rtol=1e-5, atol=0)", 1),
        ("assert_close(a, b)", 1),
        ("assert_close(a, b, rtol=1e-5, atol=0)  # measured: 3e-6", 0),
        ("# the sums run in another order: 3e-6\nassert_close(a, b, rtol=1e-5)", 0),
        ("assert torch.allclose(a, b, atol=limit)", 1),
    ],
)
def test_the_rule_itself(source: str, count: int) -> None:
    assert len(list(loose_tolerances(source))) == count


# Rounding, choosing and comparing half-precision values is exact; these are not.
ARITHMETIC = {
    "create_fadd", "create_fsub", "create_fmul", "create_fdiv", "create_frem", "create_precise_divf", "create_fma",
    "create_exp", "create_exp2", "create_log", "create_log2", "create_sqrt", "create_precise_sqrt", "create_rsqrt",
    "create_sin", "create_cos", "create_erf",
}  # fmt: skip


@contextmanager
def half_arithmetic() -> Iterator[set[str]]:
    """Collect the arithmetic that interpreted kernels do on half-precision values; ``tl.dot`` is exempt."""
    import triton.language as tl
    from triton.runtime import interpreter

    found: set[str] = set()
    halves = (tl.float16, tl.bfloat16)

    def watching(name: str, original: Any) -> Any:
        def create(builder: Any, *operands: Any) -> Any:
            if any(getattr(operand, "dtype", tl.void).scalar in halves for operand in operands):
                found.add(name)
            return original(builder, *operands)

        return create

    original_sum = interpreter.ReduceOps.sum

    def watched_sum(self: Any, values: Any) -> Any:
        if values.dtype.scalar in halves:
            found.add("sum")
        return original_sum(self, values)

    with pytest.MonkeyPatch.context() as patch:
        for name in ARITHMETIC:
            original = getattr(interpreter.InterpreterBuilder, name, None)
            if original is not None:
                patch.setattr(interpreter.InterpreterBuilder, name, watching(name, original))
        patch.setattr(interpreter.ReduceOps, "sum", watched_sum)
        yield found


@pytest.mark.parametrize(
    ("op", "backend"), [pair for pair in pairs() if is_interpreted(pair.values[1]) and pair.values[0].differentiable]
)
def test_kernels_calculate_in_float32(op: Operation, backend: str) -> None:
    """Loaded half-precision values are cast before any arithmetic; float16 shows it for bfloat16."""
    reason = refusal(op, backend, torch.float16)
    if reason is not None:
        pytest.skip(reason)
    with half_arithmetic() as found:
        for case in (op.smooth, op.edges[-1]):
            execute(op.on(backend), case, op.operands(case, torch.float16), torch.float16)
    assert not found


def test_half_arithmetic_is_seen() -> None:
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("looks into the interpreter, which serves machines without a GPU")
    from harness.half_precision_kernels import careful, careless

    values = torch.randn(8, dtype=torch.float16)
    for kernel, seen in ((careful, set()), (careless, {"create_fmul", "sum"})):
        with half_arithmetic() as found:
            kernel[(1,)](values, torch.empty(1), 8)
        assert found == seen
