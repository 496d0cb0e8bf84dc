"""One benchmark run: every case of the wanted ops, checked, timed beside its peers, and written down as rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch

from kernels.backends import BackendRefusedError
from kernels.bench import floors
from kernels.bench.gate import Expected, Verdict
from kernels.bench.memory import Memory, measure_memory
from kernels.bench.records import PHASES, AbsentError, Case, Op, Peer, Run
from kernels.bench.timing import Timing, quantile, time_interleaved

Row = dict[str, Any]
CPU_REPEATS = 7
CUDA_REPEATS = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What to run: empty ``cases`` means the defaults of the device, empty ``peers`` and ``dtypes`` mean all.

    ``cases`` and ``peers`` are patterns of names.
    """

    device: torch.device
    dtypes: tuple[torch.dtype, ...] = ()
    cases: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    repeats: int | None = None
    tiles: bool = False

    @property
    def rounds(self) -> int:
        """Repeats of each timing."""
        return self.repeats or (CUDA_REPEATS if self.device.type == "cuda" else CPU_REPEATS)


@dataclass(slots=True)
class Findings:
    """What a run has found so far: measured ``rows``, ``absent`` peers with reasons, ``failures`` of the check."""

    rows: list[Row] = field(default_factory=list)
    absent: list[dict[str, str]] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)

    @property
    def is_wrong(self) -> bool:
        """Whether a backend of ours failed."""
        return any(failure["backend"] for failure in self.failures)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ready:
    peer: Peer
    run: Run
    verdict: Verdict | None


def wanted_cases(op: Op, options: Options) -> Iterator[tuple[Case, torch.dtype]]:
    """Cases with their dtypes, in the order of the op's table."""
    kind = options.device.type
    for case in op.cases.values():
        if matches(case.name, options.cases) if options.cases else kind in case.defaults:
            for dtype in options.dtypes or case.dtypes[kind]:
                yield case, dtype


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether ``name`` fits one of the shell-style ``patterns``."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def run_ops(
    ops: Iterable[Op],
    options: Options,
    ceiling: Mapping[str, float],
    after_case: Callable[[Findings], None] = lambda findings: None,
) -> Findings:
    """Run all wanted cases; ``after_case`` sees the findings after each, so that a stopped run leaves its part."""
    findings = Findings()
    for op in ops:
        for case, dtype in wanted_cases(op, options):
            _run_trial(_Trial(op=op, case=case, dtype=dtype, options=options), ceiling, findings)
            if options.device.type == "cuda":
                torch.cuda.empty_cache()
            after_case(findings)
    return findings


@dataclass(frozen=True, kw_only=True, slots=True)
class _Trial:
    """One case in one dtype."""

    op: Op
    case: Case
    dtype: torch.dtype
    options: Options

    @property
    def place(self) -> dict[str, str]:
        """What names the trial in every row."""
        return {"op": self.op.name, "case": self.case.name, "dtype": str(self.dtype).removeprefix("torch.")}


def _run_trial(trial: _Trial, ceiling: Mapping[str, float], findings: Findings) -> None:
    """Check and time every peer of one case, adding to ``findings``."""
    inputs = trial.case.inputs(trial.options.device, trial.dtype)
    automatic = _automatic(trial, inputs, findings)
    ready = _checked_peers(trial, inputs, findings)
    timings = _times(ready, trial.options)
    limits = {"flops": ceiling[f"matmul_{trial.place['dtype']}"], "bytes": ceiling["copy"]}
    rows: list[Row] = []
    for one in ready:
        name = one.peer.name
        if name not in timings:
            continue
        memory = measure_memory(one.run, trial.options.device)
        for row in _rows(trial, one, timings[name], memory, limits):
            rows.append({**row, "automatic": automatic == name})
    _add_ratios(rows)
    findings.rows += rows


def _automatic(trial: _Trial, inputs: Any, findings: Findings) -> str | None:
    try:
        return trial.op.automatic(inputs)
    except Exception as error:
        # Its own peer will fail too; the others are still worth measuring.
        findings.failures.append({**trial.place, "peer": "automatic", "reason": first_line(error), "backend": True})
        return None


def first_line(error: Exception) -> str:
    """Type and first line of an error."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _checked_peers(trial: _Trial, inputs: Any, findings: Findings) -> list[_Ready]:
    op, case, dtype, options = trial.op, trial.case, trial.dtype, trial.options
    expected = None
    if op.expected is not None:
        expected = Expected(op.expected(inputs, torch.float64), op.expected(inputs, dtype), op.reductions(inputs))
    ready = []
    for peer in (*op.peers(case), *(op.tile_peers(case) if options.tiles else ())):
        if options.peers and not matches(peer.name, options.peers):
            continue
        note = {**trial.place, "peer": peer.name}
        if case.peers is not None and peer.name not in case.peers:
            findings.absent.append({**note, "reason": case.peers_reason})
            continue
        try:
            run = peer.build(inputs)
            outputs = run.outputs()
            results = run.results(outputs, run.backward(outputs) if run.leaves else ())
        except (AbsentError, BackendRefusedError) as error:
            reason = str(error).split("cannot serve this call: ")[-1].split("; backends are")[0]
            findings.absent.append({**note, "reason": reason})
            continue
        except Exception as error:
            # A library may refuse in any way; a backend of ours that breaks is a defect.
            if peer.backend:
                findings.failures.append({**note, "reason": first_line(error), "backend": True})
            else:
                findings.absent.append({**note, "reason": first_line(error)})
            continue
        verdict = expected.judge(results, dtype, backend=peer.backend) if expected is not None else None
        if verdict is not None and not verdict.usable:
            findings.failures.append({**note, "reason": verdict.text, "backend": peer.backend})
            continue
        del outputs, results
        ready.append(_Ready(peer=peer, run=run, verdict=verdict))
    return ready


def _times(ready: list[_Ready], options: Options) -> dict[str, Timing]:
    if options.device.type != "cuda":
        return time_interleaved({one.peer.name: one.run for one in ready}, options.rounds)
    from kernels.bench.cuda_timing import flush_buffer, time_on_device

    flush = flush_buffer(options.device)
    return {one.peer.name: time_on_device(one.run, options.rounds, one.peer.uncapturable, flush) for one in ready}


def _rows(trial: _Trial, one: _Ready, timing: Timing, memory: Memory, limits: Mapping[str, float]) -> list[Row]:
    rows = []
    work = trial.case.floors(trial.dtype)
    for phase in PHASES:
        seconds = timing.seconds.get(phase)
        if not seconds:
            continue
        median = quantile(seconds, 0.5)
        row: Row = {
            **trial.place,
            "peer": one.peer.name,
            "phase": phase,
            "backend": one.peer.backend,
            "rival": one.peer.rival,
            "axes": dict(trial.case.axes),
            "median_ms": median * 1e3,
            "p20_ms": quantile(seconds, 0.2) * 1e3,
            "p80_ms": quantile(seconds, 0.8) * 1e3,
            "repeats": len(seconds),
            "method": timing.method,
            "method_reason": timing.reason,
            "check": asdict(one.verdict) if one.verdict is not None else None,
            "peak_bytes": memory.peak,
            "held_bytes": memory.held,
        }
        if work.get(phase):
            least = floors.total(work[phase])
            row |= {
                "flops": least.flops,
                "bytes": least.bytes,
                "flops_per_second": least.flops / median,
                "bytes_per_second": least.bytes / median,
                "roofline_ms": floors.roofline_seconds(work[phase], limits) * 1e3,
                "roofline_share": floors.roofline_seconds(work[phase], limits) / median,
            }
        rows.append(row)
    return rows


def _add_ratios(rows: list[Row]) -> None:
    """To each row how many times faster it is than the best other rival, and than every other peer."""
    for row in rows:
        others = [other for other in rows if other["phase"] == row["phase"] and other is not row]
        row["ratios"] = {other["peer"]: other["median_ms"] / row["median_ms"] for other in others}
        rivals = [other for other in others if other["rival"]]
        best = min(rivals, key=lambda other: float(other["median_ms"]), default=None)
        row["best_peer"] = best["peer"] if best is not None else None
        row["ratio_to_best"] = best["median_ms"] / row["median_ms"] if best is not None else None
