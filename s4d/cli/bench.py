"""`s4d bench`: how fast every backend of every op runs beside its rivals, and what that is of the machine's limits."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s4d.errors import UsageError

if TYPE_CHECKING:
    import torch

    from kernels.bench.records import Op
    from kernels.bench.session import Findings, Options

# Ops measured by one command.
COMMANDS: dict[str, tuple[str, ...]] = {
    "attention": ("attention", "tile_map"),
    "moae": ("moae", "moae_plan"),
    "patch": ("patch",),
    "reconstruction": ("reconstruction",),
    "all": ("attention", "tile_map", "moae", "moae_plan", "patch", "reconstruction"),
}
_HELP = {
    "all": "Check and time every op beside its rivals; exit 1 if a backend's results are wrong.",
}
_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}

Device = Annotated[str | None, typer.Option(help="cuda or cpu; a GPU if there is one.", show_default=False)]
Dtype = Annotated[
    str | None,
    typer.Option(help="Some of bf16, fp16, fp32, separated by commas; the case's own by default.", show_default=False),
]
Cases = Annotated[
    str | None,
    typer.Option(help="Names or patterns, separated by commas; the device's own by default.", show_default=False),
]
Peers = Annotated[
    str | None, typer.Option(help="Names or patterns, separated by commas; all by default.", show_default=False)
]
Repeats = Annotated[
    int | None,
    typer.Option(
        min=1, help="Timed calls of each peer; 7 on a CPU, 30 on a GPU, 10 of whole steps.", show_default=False
    ),
]
Json = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="FILE|-",
        help="Where to write the results, - for stdout instead of tables; "
        "a run of all cases and peers writes below benchmarks/results by default.",
        show_default=False,
    ),
]
Csv = Annotated[Path | None, typer.Option(help="Append one line per measurement to this file.", show_default=False)]
Plots = Annotated[Path | None, typer.Option(help="Draw the sweeps into this folder.", show_default=False)]
Tiles = Annotated[bool, typer.Option(help="Also time every tile of the Triton kernels' tables (GPU).")]
Quick = Annotated[bool, typer.Option(help="Measure the machine's limits on tiny sizes, for tests.", hidden=True)]


def command_for(name: str) -> Callable[..., None]:
    """The command that measures the ops of ``COMMANDS[name]``."""

    def measure(
        *,
        device: Device = None,
        dtype: Dtype = None,
        cases: Cases = None,
        peers: Peers = None,
        repeats: Repeats = None,
        json: Json = None,
        csv: Csv = None,
        plots: Plots = None,
        tiles: Tiles = False,
        quick_ceiling: Quick = False,
    ) -> None:
        from kernels.bench.session import Options

        options = Options(
            device=chosen_device(device),
            dtypes=_dtypes(dtype),
            cases=patterns(cases),
            peers=patterns(peers),
            repeats=repeats,
            tiles=tiles,
        )
        _Measurement(name, options, json, csv, plots).run(quick_ceiling)

    measure.__doc__ = _HELP.get(
        name, f"Check and time {name} beside its rivals; exit 1 if a backend's results are wrong."
    )
    return measure


def _ops(name: str) -> list[Op]:
    from kernels.bench.ops import OPS

    return [OPS[op] for op in COMMANDS[name]]


def chosen_device(name: str | None) -> torch.device:
    """The device of a name, a GPU if there is one for None; UsageError for a device that is not here."""
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cuda", "cpu"):
        raise UsageError(f"--device: expected cuda or cpu, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device: no CUDA device on this machine")
    return torch.device(name)


def _dtypes(text: str | None) -> tuple[torch.dtype, ...]:
    import torch

    names = patterns(text)
    for name in names:
        if name not in _DTYPES:
            raise UsageError(f"--dtype: expected some of {', '.join(_DTYPES)}, got {name!r}")
    return tuple(getattr(torch, _DTYPES[name]) for name in names)


def patterns(text: str | None) -> tuple[str, ...]:
    """Names or patterns of an option, separated by commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip()) if text else ()


def refuse_unknown_peers(names: Iterable[str], wanted: tuple[str, ...]) -> None:
    """UsageError for a pattern of --peers that fits none of these names; before anything is measured."""
    from kernels.bench.session import matches

    known = tuple(dict.fromkeys(names))
    for pattern in wanted:
        if not any(matches(name, (pattern,)) for name in known):
            raise UsageError(f"--peers: none fits {pattern}; peers are {', '.join(known)}")


class _Measurement:
    """One run of `s4d bench`: measures, and writes what there is after every case."""

    def __init__(self, name: str, options: Options, json: str | None, csv: Path | None, plots: Path | None) -> None:
        from s4d.cli.bench_files import results_folder

        self.name, self.options, self.csv, self.plots = name, options, csv, plots
        self.to_stdout = json == "-"
        self.file = Path(json) if json is not None and not self.to_stdout else None
        # A part of the cases must not replace the results of all of them.
        if json is None and not (options.cases or options.peers or options.dtypes):
            folder = results_folder(options.device)
            self.file, self.csv = folder / f"{name}.json", csv or folder / "history.csv"
            self.plots = plots or (folder / "plots" if name == "all" else None)
        self.last = time.monotonic()
        self.ceiling: dict[str, float] = {}

    def run(self, quick: bool) -> None:
        """Measure, report and exit with status 1 if a check failed."""
        import torch

        from kernels.bench.ceiling import measure_ceiling
        from kernels.bench.session import run_ops, wanted_cases
        from s4d.cli import bench_files, bench_tables
        from s4d.cli.output import print_json, print_lines, relative

        ops = _ops(self.name)
        wanted = [(op, case, dtype) for op in ops for case, dtype in wanted_cases(op, self.options)]
        if not wanted:
            known = ", ".join(case for op in ops for case in op.cases)
            raise UsageError(f"--cases: none fits {', '.join(self.options.cases)}; cases are {known}")
        peers = (peer.name for op, case, _ in wanted for peer in (*op.peers(case), *op.tile_peers(case)))
        refuse_unknown_peers(peers, self.options.peers)
        dtypes = tuple(dict.fromkeys(dtype for *_, dtype in wanted))
        self.ceiling = measure_ceiling(self.options.device, (*dtypes, torch.float32), quick=quick)
        findings = run_ops(ops, self.options, self.ceiling, self._after_case)
        document = self._document(findings, complete=True)
        if self.to_stdout:
            print_json(document)
        else:
            bench_tables.show(document)
        if self.csv is not None:
            bench_files.append_csv(self.csv, document)
        if self.plots is not None:
            from s4d.analysis.bench_plots import draw_plots

            draw_plots(document, self.plots)
        if self.file is not None:
            bench_files.write_document(self.file, document)
            print_lines([f"results: {relative(self.file)}"])
        if findings.is_wrong:
            raise typer.Exit(1)

    def _after_case(self, findings: Findings) -> None:
        now = time.monotonic()
        row = findings.rows[-1] if findings.rows else None
        if row is not None:
            sys.stderr.write(f"{row['op']} {row['case']} {row['dtype']}: {now - self.last:.1f} s\n")
        self.last = now
        if self.file is not None:
            from s4d.cli.bench_files import write_document

            write_document(self.file, self._document(findings, complete=False))

    def _document(self, findings: Findings, *, complete: bool) -> dict[str, object]:
        from s4d.cli.bench_files import build_document

        ops: Sequence[str] = COMMANDS[self.name]
        return build_document(self.name, ops, self.options, self.ceiling, findings, complete=complete)
