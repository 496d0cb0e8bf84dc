"""`s4d bench step`: a whole training step of ours beside the released code's pattern and torch's compiler."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s4d.cli.bench import Cases, Csv, Device, Json, Quick, Repeats, chosen_device, patterns, refuse_unknown_peers
from s4d.errors import UsageError

if TYPE_CHECKING:
    import torch

    from s4d.analysis.step_peers.session import StepFindings, StepOptions

# Side of the large product whose rate the released figures go with.
_CPU_SIDE = 4096

Peers = Annotated[
    str | None,
    typer.Option(
        "--peers",
        "--peer",
        help="Names or patterns of engine and bare (ours, which run beside the others), release-eager, "
        "compile-sdpa, compile-dense.",
        show_default=False,
    ),
]


def step(
    *,
    device: Device = None,
    cases: Cases = None,
    peers: Peers = None,
    repeats: Repeats = None,
    json: Json = None,
    csv: Csv = None,
    readme: Annotated[
        bool, typer.Option("--readme", help="Only bring the table of README.md up to date with the results.")
    ] = False,
    quick_ceiling: Quick = False,
) -> None:
    """Time whole training steps beside the released pattern and torch's compiler; exit 1 if results differ."""
    from s4d.analysis.step_peers.session import StepOptions

    if readme:
        from s4d.cli.bench_step_tables import write_readme

        write_readme(Path.cwd())
        return
    options = StepOptions(device=chosen_device(device), cases=patterns(cases), peers=patterns(peers), repeats=repeats)
    if not options.wanted_cases():
        from s4d.analysis.bench_step import CASES

        raise UsageError(f"--cases: none fits {cases}; cases are {', '.join(CASES)}")
    _StepMeasurement(options, json, csv, quick=quick_ceiling).run()


class _StepMeasurement:
    """One run: measures, and writes what there is after every case."""

    def __init__(self, options: StepOptions, json: str | None, csv: Path | None, *, quick: bool) -> None:
        from s4d.analysis.step_peers.session import StepFindings
        from s4d.cli.bench_files import results_folder

        self.options, self.csv, self.quick = options, csv, quick
        self.to_stdout = json == "-"
        self.file = Path(json) if json is not None and not self.to_stdout else None
        # A part of the cases must not replace the results of all of them.
        if json is None and not (options.cases or options.peers):
            folder = results_folder(options.device)
            self.file, self.csv = folder / "step.json", csv or folder / "history.csv"
        self.findings: StepFindings = StepFindings()
        self.ceilings: list[dict[str, float]] = []

    def run(self) -> None:
        """Measure, report and exit with status 1 if a side of ours or an equality failed."""
        from s4d.cli.bench_files import append_csv
        from s4d.cli.bench_step_tables import show
        from s4d.cli.output import print_json, print_lines, relative

        self._measure()
        document = self._write(complete=True)
        if self.to_stdout:
            print_json(document)
        else:
            show(document)
        if self.csv is not None:
            append_csv(self.csv, document)
        if self.file is not None:
            print_lines([f"results: {relative(self.file)}"])
        if self.findings.failures:
            raise typer.Exit(1)

    def _measure(self) -> None:
        from s4d.analysis.step_peers.session import run_case
        from s4d.analysis.step_peers.table import PEERS
        from s4d.cli.bench_step_engine import EngineSides
        from s4d.cli.bench_step_memory import peak_memory

        engine = EngineSides()
        try:
            refuse_unknown_peers((engine.peer.name, *(peer.name for peer in PEERS)), self.options.peers)
            self.ceilings.append(self._ceiling())
            for case in self.options.wanted_cases():
                start = time.monotonic()
                run_case(case, (engine.peer, *PEERS), self.options, self.findings, peak_memory)
                sys.stderr.write(f"step {case.name}: {time.monotonic() - start:.1f} s\n")
                self._write(complete=False)
        finally:
            engine.close()
        self.ceilings.append(self._ceiling())

    def _ceiling(self) -> dict[str, float]:
        """FLOP/s of large products; on a CPU of the size that the released figures go with."""
        import torch

        from kernels.bench.ceiling import measure_ceiling

        device = self.options.device
        dtypes: tuple[torch.dtype, ...] = (torch.bfloat16, torch.float32)
        if device.type == "cuda":
            dtypes = (*dtypes, torch.float16)
        return measure_ceiling(device, dtypes, quick=self.quick, side=_CPU_SIDE if device.type == "cpu" else None)

    def _write(self, *, complete: bool) -> dict[str, Any]:
        from s4d.cli.bench_files import write_document

        document = build_document(self.options, self.ceilings, self.findings, complete=complete)
        if self.file is not None:
            write_document(self.file, document)
        return document


def build_document(
    options: StepOptions, ceilings: list[dict[str, float]], findings: StepFindings, *, complete: bool
) -> dict[str, Any]:
    """The document of a run so far: schema 1 of `s4d.cli.bench_files` with comparisons and the baseline's standing.

    `ceiling` is the better of the products measured before and after, both of which are in `ceilings`.
    """
    from kernels.bench.machine import machine_facts, source_commit
    from s4d.analysis.step_peers import goals
    from s4d.analysis.step_peers.released import baseline_shares
    from s4d.cli.bench_files import SCHEMA

    ceiling = {key: max(each[key] for each in ceilings) for key in ceilings[0]}
    matmul = {"bf16": ceiling["matmul_bfloat16"], "fp32": ceiling["matmul_float32"]}
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": "measurement",
        "what": "step",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": source_commit(),
        "machine": machine_facts(options.device),
        "options": {"cases": list(options.cases), "peers": list(options.peers), "repeats": options.rounds},
        "ceiling": ceiling,
        "ceilings": ceilings,
        "complete": complete,
        "rows": findings.rows,
        "comparisons": findings.comparisons,
        "baseline": baseline_shares(findings.rows, matmul),
        "absent": findings.absent,
        "failures": findings.failures,
    }
    return {**document, "goals": goals.evaluate(document, options.device.type)}
