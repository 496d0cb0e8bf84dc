"""The files of `s4d bench`: one JSON document per run, and a history of all measurements as CSV.

Schema 1 of the document: `kind` ("measurement"), `what`, `date`, `commit`, `machine`, `options`, `ceiling` (FLOP/s of a
large product per dtype, bytes per second of a large copy), `rows` (one per op, case, dtype, peer and phase), `absent`
(peers that did not run, with the reason), `failures` (results that were wrong, not timed), `goals`, and `complete`,
false while the run goes on.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s4d.atomic_files import write_atomically
from s4d.json_text import to_json

if TYPE_CHECKING:
    import torch

    from kernels.bench.session import Findings, Options

SCHEMA = 1
RESULTS = Path("benchmarks") / "results"
_RUN_COLUMNS = ("date", "commit", "device_name", "threads", "torch", "triton")
_ROW_COLUMNS = (
    "op",
    "case",
    "dtype",
    "peer",
    "phase",
    "median_ms",
    "p20_ms",
    "p80_ms",
    "repeats",
    "method",
    "flops_per_second",
    "bytes_per_second",
    "roofline_share",
    "best_peer",
    "ratio_to_best",
    "peak_bytes",
    "held_bytes",
)


def results_folder(device: torch.device) -> Path:
    """Where complete results of a device belong, below the working directory."""
    from kernels.bench.machine import device_slug

    return RESULTS / device_slug(device)


def build_document(
    what: str,
    ops: Sequence[str],
    options: Options,
    ceiling: Mapping[str, float],
    findings: Findings,
    *,
    complete: bool,
) -> dict[str, Any]:
    """The document of a run so far."""
    from kernels.bench.goals import evaluate
    from kernels.bench.machine import machine_facts, source_commit

    return {
        "schema": SCHEMA,
        "kind": "measurement",
        "what": what,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": source_commit(),
        "machine": machine_facts(options.device),
        "options": {
            "cases": list(options.cases),
            "peers": list(options.peers),
            "dtypes": [str(dtype) for dtype in options.dtypes],
            "repeats": options.rounds,
            "tiles": options.tiles,
        },
        "ceiling": dict(ceiling),
        "complete": complete,
        "rows": findings.rows,
        "absent": findings.absent,
        "failures": findings.failures,
        "goals": [outcome.as_dict() for outcome in evaluate(findings.rows, ceiling, options.device.type, ops)],
    }


def write_document(path: Path, document: Mapping[str, Any]) -> None:
    """Write the document, replacing an older one."""
    write_atomically(path, to_json(document))


def append_csv(path: Path, document: Mapping[str, Any]) -> None:
    """Append the rows of the document, with a header if the file is new."""
    machine = document["machine"]
    run = {
        "date": document["date"],
        "commit": document["commit"],
        "device_name": machine["device_name"],
        "threads": machine["threads"],
        "torch": machine["versions"]["torch"],
        "triton": machine["versions"]["triton"],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, (*_RUN_COLUMNS, *_ROW_COLUMNS), extrasaction="ignore", lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerows({**run, **{key: _short(row.get(key)) for key in _ROW_COLUMNS}} for row in document["rows"])


def _short(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value
