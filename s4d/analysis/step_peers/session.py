"""One run of the step benchmark: every case made ready on all sides, checked, timed in turns, written as rows."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from kernels.bench.records import AbsentError
from kernels.bench.session import CPU_REPEATS, first_line, matches
from kernels.bench.timing import quantile, without_garbage_collection
from s4d.analysis.bench_step import CASES, StepCase, step_flops
from s4d.analysis.step_peers.equality import HALF_TOLERANCE, LOSS_TOLERANCE, Equality, float32_loss, without_ties
from s4d.analysis.step_peers.side import Side, StepPeer, Trial, build_trial

Row = dict[str, Any]
CUDA_REPEATS = 10
# Steps between two looks at the clock: on a GPU several, so that the host may run ahead as it does in training.
STEPS_IN_A_TURN = {"cpu": 1, "cuda": 3}


@dataclass(frozen=True, kw_only=True, slots=True)
class StepOptions:
    """What to run: empty ``cases`` means the defaults of the device, empty ``peers`` means all; both are patterns."""

    device: torch.device
    cases: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    repeats: int | None = None

    @property
    def rounds(self) -> int:
        """Turns of each side."""
        return self.repeats or (CUDA_REPEATS if self.device.type == "cuda" else CPU_REPEATS)

    def wanted_cases(self) -> list[StepCase]:
        """Cases in the order of their table."""
        kind = self.device.type
        return [c for c in CASES.values() if (matches(c.name, self.cases) if self.cases else kind in c.defaults)]

    def wanted_peers(self, peers: Sequence[StepPeer]) -> list[StepPeer]:
        """The named peers; where none of ours is among them, ours beside them."""
        named = [peer for peer in peers if not self.peers or matches(peer.name, self.peers)]
        if any(peer.ours for peer in named):
            return named
        return [peer for peer in peers if peer.ours or peer in named]


@dataclass(slots=True)
class StepFindings:
    """Measured ``rows``, ``comparisons`` of ours with each other side, ``absent`` sides and ``failures``."""

    rows: list[Row] = field(default_factory=list)
    comparisons: list[Row] = field(default_factory=list)
    absent: list[dict[str, str]] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ready:
    peer: StepPeer
    precision: str
    side: Side
    check: dict[str, Any]
    peak: int | None

    @property
    def label(self) -> tuple[str, str]:
        return self.peer.name, self.precision


# Peak bytes of one side of a case, where the process itself cannot tell.
Memory = Callable[[StepCase, str, str], int | None]


def run_case(
    case: StepCase, peers: Sequence[StepPeer], options: StepOptions, findings: StepFindings, memory: Memory
) -> None:
    """Check and time one case, adding to ``findings``."""
    trial = without_ties(build_trial(case, options.device))
    ready = _ready(trial, options.wanted_peers(peers), findings)
    seconds = time_in_turns({one.label: one.side.step for one in ready}, options.rounds, options.device)
    rows = [_row(case, one, seconds[one.label]) for one in ready]
    findings.comparisons += comparisons(rows)
    while ready:
        ready.pop().side.close()
    _forget(options.device)
    if options.device.type != "cuda":
        for row in rows:
            row["peak_bytes"] = memory(case, row["peer"], row["dtype"])
    findings.rows += rows


def _ready(trial: Trial, peers: list[StepPeer], findings: StepFindings) -> list[_Ready]:
    ready: list[_Ready] = []
    expected: float | None = None
    for peer in sorted(peers, key=lambda peer: peer.equality is None):
        notes = [
            {"op": "step", "case": trial.case.name, "dtype": precision, "peer": peer.name}
            for precision in peer.precisions[trial.device.type]
        ]
        try:
            reason = peer.refuse(trial)
            if reason is not None:
                raise AbsentError(reason)
            check = peer.equality(trial) if peer.equality is not None else None
            _forget(trial.device)
            if check is not None and not check.passed:
                raise WrongLossError(check.text)
            if expected is None:
                expected = float32_loss(trial) if check is None else check.loss
        except Exception as error:
            _note(peer, notes, error, findings)
            continue
        for note in notes:
            try:
                ready.append(_warm(trial, peer, note["dtype"], check, expected))
            except Exception as error:
                _note(peer, [note], error, findings)
                _forget(trial.device)
    places = [peer.name for peer in peers]
    return sorted(ready, key=lambda one: places.index(one.peer.name))


def _note(peer: StepPeer, notes: list[dict[str, str]], error: Exception, findings: StepFindings) -> None:
    """A foreign side that cannot run is absent; one of ours that breaks, or a wrong result, is a failure."""
    for note in notes:
        if isinstance(error, AbsentError):
            findings.absent.append({**note, "reason": str(error)})
        elif peer.ours or isinstance(error, WrongLossError):
            findings.failures.append({**note, "reason": first_line(error), "backend": True})
        else:
            findings.absent.append({**note, "reason": first_line(error)})


class WrongLossError(Exception):
    """A side that is to be timed does not compute our loss or our gradients."""


def _warm(trial: Trial, peer: StepPeer, precision: str, check: Equality | None, expected: float) -> _Ready:
    """Build a side, hold its first loss against ours in float32, and run its first steps."""
    device = trial.device
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    side = peer.build(trial, precision)
    loss, tolerance = side.loss(), LOSS_TOLERANCE if precision == "fp32" else HALF_TOLERANCE
    if not abs(loss - expected) <= tolerance * abs(expected):
        raise WrongLossError(f"loss {loss:.7g} in {precision}, expected {expected:.7g} within {tolerance:g} of it")
    side.step()
    peak = None
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        side.step()
        torch.cuda.synchronize(device)
        peak = torch.cuda.max_memory_allocated(device) - before
    shown: dict[str, Any] = {"loss": loss, "expected_loss": expected, "tolerance": tolerance}
    if check is not None:
        shown["float32"] = {"text": check.text, "losses": dict(check.losses), "gradients": dict(check.gradients)}
    return _Ready(peer=peer, precision=precision, side=side, check=shown, peak=peak)


def _forget(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def time_in_turns(
    steps: Mapping[tuple[str, str], Callable[[], None]], repeats: int, device: torch.device
) -> dict[tuple[str, str], list[float]]:
    """Seconds of a step of each side in every round; the order turns by one each round. All sides are warm."""
    seconds: dict[tuple[str, str], list[float]] = {label: [] for label in steps}
    labels, count = list(steps), STEPS_IN_A_TURN[device.type]
    with without_garbage_collection():
        for _ in range(repeats):
            for label in labels:
                start = time.perf_counter()
                for _ in range(count):
                    steps[label]()
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                seconds[label].append((time.perf_counter() - start) / count)
            labels = labels[1:] + labels[:1]
    return seconds


def _row(case: StepCase, one: _Ready, seconds: list[float]) -> Row:
    median, shape = quantile(seconds, 0.5), case.shape
    flops = step_flops(shape)
    return {
        "op": "step",
        "case": case.name,
        "dtype": one.precision,
        "peer": one.peer.name,
        "phase": "step",
        "ours": one.peer.ours,
        "shape": asdict(shape),
        "median_ms": 1e3 * median,
        "p20_ms": 1e3 * quantile(seconds, 0.2),
        "p80_ms": 1e3 * quantile(seconds, 0.8),
        "repeats": len(seconds),
        "method": "wall",
        "seconds": seconds,
        "clips_per_second": shape.clips / median,
        "images_per_second": shape.images / median,
        "flops": flops,
        "flops_per_second": flops / median,
        "peak_bytes": one.peak,
        "check": one.check,
        "notes": dict(one.side.notes),
    }


def main_row(rows: Sequence[Row]) -> Row | None:
    """Our side of a case: the engine's if it ran, else the bare loop's."""
    ours = [row for row in rows if row["ours"]]
    return next((row for row in ours if row["peer"] == "engine"), ours[0] if ours else None)


def comparisons(rows: Sequence[Row]) -> list[Row]:
    """How many times faster our side was than each other, round by round, for the rows of one case."""
    main = main_row(rows)
    found = []
    for row in rows:
        if main is None or row is main:
            continue
        ratios = [other / own for other, own in zip(row["seconds"], main["seconds"], strict=True)]
        found.append(
            {
                "case": row["case"],
                "ours": main["peer"],
                "peer": row["peer"],
                "dtype": row["dtype"],
                "speedup": quantile(ratios, 0.5),
                "p20": quantile(ratios, 0.2),
                "p80": quantile(ratios, 0.8),
            }
        )
    return found
