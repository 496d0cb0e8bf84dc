"""Custom ops as torch wants them, and every backend traced into one graph."""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from typing import Any

import pytest
import torch
from harness.operation import (
    Forward,
    Operation,
    Run,
    device_of,
    dtypes_of,
    execute,
    is_interpreted,
    refusal,
    second_opinion,
)
from harness.table import OPERATIONS, pairs
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import kernels
from kernels.native import attention_refuses

NAMESPACE = "s4d::"
# Ops that no call can reach on this machine, with the reason.
NATIVE_ATTENTION = attention_refuses(64)
UNREACHED: dict[str, str] = (
    {} if NATIVE_ATTENTION is None else {f"s4d::native_attention{part}": NATIVE_ATTENTION for part in ("", "_backward")}
)


class Recorder(TorchDispatchMode):
    """The first call of each op of our namespace: its arguments, detached and copied."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name.startswith(NAMESPACE) and func._schema.name not in self.calls:
            args, kwargs = torch.utils._pytree.tree_map_only(Tensor, lambda t: t.detach().clone(), (args, kwargs or {}))
            self.calls[func._schema.name] = func, args, kwargs
            return func(*args, **kwargs)
        return func(*args, **(kwargs or {}))


def registered() -> set[str]:
    """Names of all custom ops of the kernels package, every module of it imported."""
    for module in pkgutil.walk_packages(kernels.__path__, "kernels."):
        if module.name.startswith(("kernels.bench", "kernels.native.lib")):
            continue  # no ops there; a shared library is not a Python module
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            # A backend of a package that this machine lacks.
            assert (error.name or "").partition(".")[0] not in ("kernels", "torch"), module.name
    return {name for name in torch._C._dispatch_get_all_op_names() if name.startswith(NAMESPACE)}


@pytest.fixture(scope="module")
def recorded() -> dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    """Calls of every op that some backend makes on a small case, with and without what the edges bring."""
    recorder = Recorder()
    for op in OPERATIONS.values():
        for backend in op.backends:
            for dtype in dtypes_of(op, backend):
                if refusal(op, backend, dtype) is not None:
                    continue
                for case in (op.smooth, op.edges[-1], *([] if is_interpreted(backend) else op.edges)):
                    with recorder:
                        execute(
                            op.on(backend), case, op.operands(case, dtype), dtype, device=device_of(op, backend, dtype)
                        )
    return recorder.calls


OPS = sorted(registered())


def test_ops_are_found() -> None:
    assert {"s4d::routing_plan", "s4d::ragged_matmul", "s4d::grouped_attention_backward"} <= set(OPS)


def is_differentiable(func: Any) -> bool:
    """Whether the op has a gradient of its own, so that its operands may ask for one."""
    definition = torch._library.custom_ops.OPDEFS.get(func._schema.name)
    return definition is not None and definition._backward_fn is not None


@pytest.mark.parametrize("name", OPS)
def test_opcheck(name: str, recorded: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]]) -> None:
    """Schema, fake tensors, autograd registration and tracing of each op, on operands a backend gave it."""
    if name in UNREACHED and name not in recorded:
        pytest.skip(UNREACHED[name])
    assert name in recorded, f"no case of the harness calls {name}: add one that does"
    func, args, kwargs = recorded[name]
    if is_differentiable(func):
        args, kwargs = torch.utils._pytree.tree_map_only(
            Tensor, lambda t: t.requires_grad_(t.is_floating_point()), (args, kwargs)
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # opcheck traces with interfaces that torch itself deprecates
        torch.library.opcheck(func, args, kwargs)


def traced(op: Operation, backend: str, compiler: str) -> None:
    """Compare the compiled forward and backward of the smooth case with the eager ones, under the policy."""
    dtype = next((d for d in dtypes_of(op, backend) if refusal(op, backend, d) is None), None)
    if dtype is None:
        pytest.skip(refusal(op, backend, op.dtypes[0]) or "no dtype")
    case = op.smooth
    forward = op.on(backend)
    torch._dynamo.reset()
    compiled = torch.compile(lambda leaves, fixed: forward(case, leaves, fixed), fullgraph=True, backend=compiler)
    run = Run(
        op=op,
        case=case,
        dtype=dtype,
        backward=op.differentiable,
        placement="plain",
        steps=1,
        device=device_of(op, backend, dtype),
    )
    again: Forward = lambda _, leaves, fixed: compiled(leaves, fixed)  # noqa: E731 (a name for a type)
    ours, eager, exact = run.of(again), run.of(forward), run.exact()
    failed = []
    for name, value in ours.items():
        if value.is_floating_point():
            comparison = run.compare(name, value, eager[name], exact[name])
            failed += [] if comparison.passed else [(name, comparison)]
        else:
            assert torch.equal(value, eager[name]), name
    if failed:
        second_opinion(run, again, failed, exact)


@pytest.mark.parametrize(("op", "backend"), pairs())
def test_traces_into_one_graph(op: Operation, backend: str) -> None:
    traced(op, backend, "aot_eager")


@pytest.mark.deep
@pytest.mark.parametrize(("op", "backend"), [pair for pair in pairs() if not is_interpreted(pair.values[1])])
def test_compiles_with_inductor(op: Operation, backend: str) -> None:
    traced(op, backend, "inductor")
