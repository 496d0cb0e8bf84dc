"""What the harness knows of an op, and the one way in which it runs a backend and compares it.

Every case is a small frozen record: with its name, dtype, placement and number of steps it is all that is needed to run
a failure again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from statistics import mean
from typing import Any

import torch
from harness.memory import guarded_allocations, place
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from kernels.backends import Backend, BackendRefusedError
from kernels.numerics import UNIT, Comparison, check_equal, compare

Named = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Operands:
    """Tensors of one call: float64 ``leaves`` and ``upstream`` gradients by result, rounded to a dtype; the others."""

    leaves: Named
    upstream: Named
    fixed: Named


Forward = Callable[..., Named]


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """One op: its table, its cases, and its forward ``(case, leaves, fixed, backend) -> results by name``.

    ``cases(interpreted)`` draws records with small sizes for the interpreter; ``edges`` are always tried; ``smooth`` is
    tiny and bears small steps; ``busy`` is large enough for several threads. ``exact`` is the definition and ``native``
    the plain PyTorch form, both as forward without a backend; ``forms`` are other plain PyTorch forms, whose sums run
    in other orders. ``library`` names backends that are themselves one plain PyTorch call: held to the RMS bound and
    the pattern, not to another formula's error.
    """

    name: str
    backends: Mapping[str, Backend]
    cases: Callable[[bool], SearchStrategy[Any]]
    edges: tuple[Any, ...]
    smooth: Any
    busy: Any
    operands: Callable[[Any, torch.dtype], Operands]
    forward: Forward
    exact: Forward
    native: Forward
    forms: tuple[Forward, ...] = ()
    definition: str | None = "reference"
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float16, torch.bfloat16)
    library: frozenset[str] = frozenset()
    # Longest sum of a case.
    reduction: Callable[[Any], int] = field(default=lambda case: 0)

    @property
    def differentiable(self) -> bool:
        """Whether the op has floating-point operands at all."""
        return bool(self.operands(self.edges[-1], torch.float32).leaves)

    @property
    def rivals(self) -> tuple[str, ...]:
        """Backends other than the definition."""
        return tuple(name for name in self.backends if name != self.definition)

    def on(self, backend: str) -> Forward:
        """The forward of one backend."""
        return lambda case, leaves, fixed: self.forward(case, leaves, fixed, backend)


def is_interpreted(backend: str) -> bool:
    """Whether a backend runs in Triton's interpreter here."""
    return "triton" in backend and not torch.cuda.is_available()


def dtypes_of(op: Operation, backend: str) -> tuple[torch.dtype, ...]:
    """Dtypes that ``backend`` can be tried in; the interpreter multiplies bfloat16 wrongly."""
    return tuple(d for d in op.dtypes if d != torch.bfloat16 or not is_interpreted(backend))


_refusals: dict[tuple[str, str, torch.dtype, str], str | None] = {}


def _refusal_on(op: Operation, backend: str, dtype: torch.dtype, device: str) -> str | None:
    key = op.name, backend, dtype, device
    if key not in _refusals:
        operands = op.operands(op.smooth, dtype)
        try:
            execute(op.on(backend), op.smooth, operands, dtype, backward=False, device=device)
            _refusals[key] = None
        except BackendRefusedError as error:
            _refusals[key] = str(error)
    return _refusals[key]


def device_of(op: Operation, backend: str, dtype: torch.dtype) -> str:
    """The GPU if there is one and the backend serves it, else the CPU."""
    on_gpu = torch.cuda.is_available() and backend in op.backends
    return "cuda" if on_gpu and _refusal_on(op, backend, dtype, "cuda") is None else "cpu"


def refusal(op: Operation, backend: str, dtype: torch.dtype) -> str | None:
    """Why ``backend`` serves not even the smallest case on any device of this machine, or None."""
    return _refusal_on(op, backend, dtype, device_of(op, backend, dtype))


def execute(
    forward: Forward,
    case: Any,
    operands: Operands,
    dtype: torch.dtype,
    *,
    backward: bool = True,
    placement: str = "plain",
    steps: int = 1,
    device: str = "cpu",
) -> Named:
    """Results by name and, as ``d_<leaf>``, the gradients gathered in ``steps`` forwards and backwards."""
    leaves = {name: place(leaf.to(dtype), placement).requires_grad_(backward) for name, leaf in operands.leaves.items()}
    fixed = {name: place(tensor, placement) for name, tensor in operands.fixed.items()}
    results: Named = {}
    for step in range(steps):
        with nullcontext() if backward else torch.no_grad():
            results = forward(case, leaves, fixed)
        roots = [name for name, result in results.items() if result.requires_grad]
        if backward and roots:
            # The second step must not cancel the first.
            gradients = [operands.upstream[name].to(results[name]) * (1 - 0.25 * step) for name in roots]
            torch.autograd.backward([results[name] for name in roots], [place(g, placement) for g in gradients])
    found = {name: result.detach() for name, result in results.items()}
    if backward:
        for name, leaf in leaves.items():
            found[f"d_{name}"] = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
    return found


class IllConditionedError(AssertionError):
    """Plain PyTorch itself misses the RMS row on such a case, so the policy says nothing about a kernel there."""


def check_case(
    op: Operation,
    case: Any,
    backend: str,
    dtype: torch.dtype,
    *,
    backward: bool = True,
    placement: str = "plain",
    steps: int = 1,
) -> None:
    """Hold one backend to the policy on one case; an error names everything that is needed to run it again.

    Raises IllConditionedError where only the RMS row is missed and plain PyTorch misses it too.
    """
    device = device_of(op, backend, dtype)
    run = Run(op=op, case=case, dtype=dtype, backward=backward, placement=placement, steps=steps, device=device)
    try:
        with guarded_allocations():
            ours = run.of(op.on(backend))
        native, exact = run.of(op.native), run.exact()
        assert ours.keys() == exact.keys(), f"results {sorted(ours)} instead of {sorted(exact)}"
        failed = []
        for name, value in ours.items():
            if not exact[name].is_floating_point():
                check_equal(value, exact[name], name=name)
                continue
            assert value.dtype == native[name].dtype, f"{name}: expected {native[name].dtype}, got {value.dtype}"
            rival = value if backend in op.library else native[name]
            comparison = run.compare(f"{op.name} {backend} {name}", value, rival, exact[name])
            if not comparison.passed:
                failed.append((name, comparison))
        if failed:
            second_opinion(run, op.on(backend), failed, exact)
    except AssertionError as error:
        error.add_note(
            f"run again: check_case({op.name.upper()}, {case!r}, {backend!r}, {dtype}, backward={backward}, "
            f"placement={placement!r}, steps={steps})"
        )
        raise


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One case in one dtype and placement, to be run by several forwards."""

    op: Operation
    case: Any
    dtype: torch.dtype
    backward: bool
    placement: str
    steps: int
    device: str = "cpu"

    def of(self, forward: Forward) -> Named:
        """Results of ``forward`` in the working dtype."""
        # Placed alike for all: a matrix product of torch sums in another order where its operands are strided.
        return execute(
            forward,
            self.case,
            self.op.operands(self.case, self.dtype),
            self.dtype,
            backward=self.backward,
            placement=self.placement,
            steps=self.steps,
            device=self.device,
        )

    def exact(self) -> Named:
        """Results of the definition in float64 on the same rounded operands, on the CPU."""
        operands = self.op.operands(self.case, self.dtype)
        return execute(self.op.exact, self.case, operands, torch.float64, backward=self.backward, steps=self.steps)

    def compare(self, name: str, value: Tensor, native: Tensor, exact: Tensor) -> Comparison:
        """The figures of one result."""
        return compare(value, native, exact, self.dtype, name=name, reduction=self.op.reduction(self.case))


# Draws of a case to judge by where one says too little: a result of few values may be exact by luck, and thousands of
# generated cases find the one draw of which a sum in another order makes more. A kernel that errs does on average too.
_DRAWS = 16
_SEED_STEP = 1_000_003
# How far a single draw may lie above the bound of the largest error and above the RMS row if the average is within.
_LARGEST, _RMS = 4.0, 2.0


@dataclass(slots=True)
class _Draws:
    """Relative largest errors and RMS ratios of one result over the draws, of the backend and of the plain forms."""

    errors: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    plain_errors: list[float] = field(default_factory=list)
    plain_ratios: list[float] = field(default_factory=list)


def _draw(run: Run, forward: Forward, names: list[str]) -> dict[str, _Draws]:
    draws = {name: _Draws() for name in names}
    for draw in range(_DRAWS):
        again = replace(run, case=replace(run.case, seed=run.case.seed + draw * _SEED_STEP))
        reference = again.exact()
        # A backend may copy strided operands, after which torch sums as for dense ones, at times with more error.
        runs = [again] if run.placement == "plain" else [again, replace(again, placement="plain")]
        plain = [each.of(form) for each in runs for form in (run.op.native, *run.op.forms)]
        results = [again.of(forward), *plain]
        for name, found in draws.items():
            scale = float(reference[name].abs().max()) if reference[name].numel() else 0.0
            for form, result in enumerate(results):
                comparison = again.compare(name, result[name], result[name], reference[name])
                error = comparison.kernel_error / scale if scale else 0.0
                (found.plain_errors if form else found.errors).append(error)
                (found.plain_ratios if form else found.ratios).append(comparison.rms_ratio)
    return draws


def second_opinion(run: Run, forward: Forward, failed: list[tuple[str, Comparison]], exact: Named) -> None:
    """Raise for what fails even against several draws of the same case: the worst of the plain forms or the average."""
    draws = _draw(run, forward, [name for name, _ in failed])
    for name, comparison in failed:
        found, unit = draws[name], UNIT[run.dtype]
        bound = max((2 * max(found.plain_errors) + unit) * float(exact[name].abs().max()), comparison.error_bound)
        usual = mean(found.errors) <= 2 * mean(found.plain_errors) + unit
        if not comparison.same_pattern or comparison.kernel_error > bound * (_LARGEST if usual else 1):
            raise AssertionError(f"{comparison}; bound from {_DRAWS} draws {bound:.3e}")
        usual = mean(found.ratios) <= comparison.rms_bound
        if comparison.rms_ratio > comparison.rms_bound * (_RMS if usual else 1):
            plain = max(found.plain_ratios)
            if plain <= comparison.rms_bound:
                raise AssertionError(f"{comparison}; plain PyTorch in {_DRAWS} draws at most {plain:.3e}")
            raise IllConditionedError(f"{comparison}; plain PyTorch up to {plain:.3e}")
