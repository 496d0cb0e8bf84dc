"""The scorecard: what is promised of faults, resumption and bad input, counted over numbered cases and many runs.

    python tests/scorecard/scorecard.py --minutes 10            go on where the last run ended, print the table
    python tests/scorecard/scorecard.py --replay R23 1234       one case here, with its traceback

Cases run in a child process that is killed, with all it started, when one takes too long; row and number say all about
a case. Totals are in benchmarks/results/cpu/scorecard.json, a table of them beside it, both to be committed.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import families
from rows import BY_NAME, ROWS, TESTS, Row

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS = ROOT / "benchmarks/results/cpu/scorecard.json"
WORK = ROOT / "runs/scorecard"
START_SECONDS = 120.0
CASES_PER_CHILD = 500
SAVE_SECONDS = 60.0
NAMED = 20


def run_cases(row: Row, cases: Sequence[int], folder: Path, seconds: float) -> Iterator[dict[str, Any]]:
    """A line about each case in order, until all are done or the seconds are over."""
    end = time.monotonic() + seconds
    done = 0
    while done < len(cases) and time.monotonic() < end:
        batch = cases[done : done + CASES_PER_CHILD]
        with _Child(row, batch, folder, end - time.monotonic()) as child:
            for line in child.lines():
                if "case" in line:
                    done += 1
                    yield line
        # Whatever the child was at is what ended it; the next child begins behind it.
        if child.failure and done < len(cases):
            yield {"case": cases[done], "failure": child.failure}
            done += 1


class _Child:
    """A process that runs a batch of cases; `failure` says why it did not come to the end of them."""

    def __init__(self, row: Row, cases: Sequence[int], folder: Path, seconds: float) -> None:
        traits = ",".join(["small"] * row.small + ["measured"] * (row.measure is not None))
        source = [str(TESTS / row.folder), row.module, traits or "none"]
        command = [sys.executable, str(HERE / "case_child.py"), *source, str(folder), str(seconds)]
        self.row = row
        self.mark = uuid.uuid4().hex
        # A file: nobody reads what is said there before the end, and a full pipe would stop whoever says it.
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the child)
        self.process = subprocess.Popen(
            [*command, *map(str, cases)],
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=families.inner(self.mark),
        )
        self.waiting_for = len(cases)
        self.failure = ""

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        families.end(self.mark)
        self.process.communicate()
        self.errors.close()

    def lines(self) -> Iterator[dict[str, Any]]:
        """What the child reports; ends with it, or kills it where it reports nothing for too long."""
        stream = self.process.stdout
        assert stream is not None
        text = b""
        limit = START_SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            while selector.select(limit):
                limit = self.row.case_seconds
                piece = stream.read1(1 << 16)  # type: ignore[attr-defined]
                if not piece:
                    self._note_end()
                    return
                *whole, text = (text + piece).split(b"\n")
                for line in whole:
                    report = json.loads(line)
                    self.waiting_for -= "case" in report
                    yield report
            self.failure = f"no answer in {limit:g} s"

    def _note_end(self) -> None:
        status = self.process.wait()
        # With status 0 the time is up, or the child leaves because it has grown, which it has said.
        if status and self.waiting_for:
            self.errors.seek(0)
            last = self.errors.read().decode(errors="replace").strip().splitlines()[-1:]
            self.failure = f"the process ended with status {status}: {' '.join(last)}"


def totals_of(row: Row, totals: dict[str, Any]) -> dict[str, Any]:
    """What is known about a row; a row of another size or none starts anew."""
    empty = {"goal": row.goal, "target": row.target, "done": 0, "failures": 0, "outcomes": {}, "failed": []}
    known = totals.get(row.name, empty)
    return known if known["target"] == row.target else empty


def advance(row: Row, known: dict[str, Any], work: Path, seconds: float, limit: int) -> Iterator[dict[str, Any]]:
    """Run further cases of a row; its new totals after each. Failures are also written to a file in `work`."""
    cases = range(known["done"], min(row.target, known["done"] + limit))
    # Asked once: what runs was read when it began.
    commit = _commit()
    work.mkdir(parents=True, exist_ok=True)
    with (work / f"{row.name}.jsonl").open("a", encoding="utf-8", buffering=1) as log:
        for line in run_cases(row, cases, work / row.name, seconds):
            if "failure" in line:
                log.write(json.dumps(line) + "\n")
            known = {**_counted(row, known, line), "date": datetime.now(UTC).strftime("%Y-%m-%d"), "commit": commit}
            yield known


def _counted(row: Row, known: dict[str, Any], line: dict[str, Any]) -> dict[str, Any]:
    """Totals with one more case."""
    known = {**known, "goal": row.goal, "done": known["done"] + 1}
    if "failure" in line:
        return {**known, "failures": known["failures"] + 1, "failed": [*known["failed"], line][:NAMED]}
    outcomes = Counter(known["outcomes"]) + Counter([line["outcome"]])
    known["outcomes"] = dict(sorted(outcomes.items()))
    if row.measure is not None:
        values = [*known.get("values", []), line["value"]]
        known |= {"values": values, "unit": row.measure.unit, "limit": row.measure.limit}
    return known


def _commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "s4d", "engine", "kernels", "tests")
    return git("rev-parse", "--short", "HEAD") + ("+changes" if changed else "")


def value_of(row: Row, known: dict[str, Any]) -> float | None:
    """What a row measured over its cases so far."""
    values = known.get("values", [])
    return row.measure.reduce(values) if row.measure is not None and values else None


def measured(row: Row, known: dict[str, Any]) -> str:
    """That value beside its limit; nothing where there is none yet."""
    value = value_of(row, known)
    return "" if row.measure is None or value is None else f"{value:.3g} of {row.measure.limit:g} {row.measure.unit}"


def state_of(row: Row, known: dict[str, Any]) -> str:
    """`pass` when whole and within its limits, `fail` when beyond them, otherwise `open`."""
    value = value_of(row, known)
    too_many = known["failures"] > row.may_fail * (known["done"] if row.may_fail else 0)
    if too_many or (row.measure is not None and value is not None and not value <= row.measure.limit):
        return "fail"
    return "pass" if known["done"] >= row.target else "open"


def print_table(rows: Sequence[Row], totals: dict[str, Any]) -> bool:
    """Print a line for each row; returns whether none fails."""
    print(f"{'row':<10}{'goal':<46}{'done':>15}{'failures':>10}  {'measured':<26}state")
    states = []
    for row in rows:
        known = totals_of(row, totals)
        states.append(state_of(row, known))
        done = f"{known['done']}/{row.target}"
        print(f"{row.name:<10}{row.goal:<46}{done:>15}{known['failures']:>10}  {measured(row, known):<26}{states[-1]}")
        for line in known["failed"][:NAMED] if states[-1] == "fail" else ():
            print(f"      case {line['case']}: {line['failure']}")
    return "fail" not in states


def render(rows: Sequence[Row], totals: dict[str, Any]) -> str:
    """The totals as a table in Markdown, which lies beside them."""
    lines = ["| Row | Cases tried | Failures | Measured | Commit | State |", "|---|---|---|---|---|---|"]
    for row in rows:
        known = totals_of(row, totals)
        tried = f"{known['done']:,} of {row.target:,}"
        cells = [
            row.name,
            tried,
            str(known["failures"]),
            measured(row, known),
            known.get("commit", ""),
            state_of(row, known),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def replay(row: Row, case: int, work: Path) -> None:
    """Run one case in this process and print its outcome."""
    sys.path.insert(0, str(TESTS / row.folder))
    module, folder = importlib.import_module(row.module), work / "replay"
    folder.mkdir(parents=True, exist_ok=True)
    module.prepare(folder)
    print(module.run(case, folder))


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def _write(path: Path, name: str, known: dict[str, Any]) -> None:
    """Replace what the file says of one row; other rows may be counted by other programs at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        totals = {**_read(path), name: known}
        aside = path.with_suffix(".tmp")
        aside.write_text(
            json.dumps({row.name: totals[row.name] for row in ROWS if row.name in totals}, indent=1) + "\n"
        )
        aside.replace(path)
        path.with_suffix(".md").write_text(render(ROWS, totals))
    finally:
        os.close(folder)


def main() -> int:
    """Command line; status 1 where a row fails."""
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="time for all rows together")
    parser.add_argument("--rows", nargs="+", choices=names, default=names)
    parser.add_argument("--cases", type=int, default=sys.maxsize, help="at most so many of each row in this run")
    parser.add_argument("--again", action="store_true", help="forget the totals of these rows")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, default=WORK, help="folder for files of the cases")
    parser.add_argument("--replay", nargs=2, metavar=("ROW", "CASE"), help="run one case in this process")
    options = parser.parse_args()
    if options.replay:
        replay(BY_NAME[options.replay[0]], int(options.replay[1]), options.work)
        return 0
    rows = [BY_NAME[name] for name in options.rows]
    end = time.monotonic() + options.minutes * 60
    for place, row in enumerate(rows):
        known = before = totals_of(row, {} if options.again else _read(options.results))
        share = (end - time.monotonic()) / (len(rows) - place)
        written = time.monotonic()
        for known in advance(row, before, options.work, share, options.cases):
            # A run that is ended from outside loses a minute of cases, not an hour.
            if time.monotonic() - written > SAVE_SECONDS:
                _write(options.results, row.name, known)
                written = time.monotonic()
        _write(options.results, row.name, known)
    totals = _read(options.results)
    return 0 if print_table(rows, totals) else 1


if __name__ == "__main__":
    sys.exit(main())
