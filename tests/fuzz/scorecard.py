"""The scorecard: promises about bad input, each counted over many numbered cases, over as many runs as it takes.

    python tests/fuzz/scorecard.py --seconds 600          go on where the last run ended, print the table
    python tests/fuzz/scorecard.py --replay R23 1234      one case here, with its traceback

Cases run in a child process that is killed when one takes too long; row and number say all about a case. Totals are in
benchmarks/scorecard/scorecard.json, to be committed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import selectors
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS = ROOT / "benchmarks/scorecard/scorecard.json"
WORK = ROOT / "runs/scorecard"
HANG_SECONDS = 10.0
START_SECONDS = 120.0
CASES_PER_CHILD = 500
NAMED = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One promise: the module with its cases, how many make it whole, the share of them that may fail."""

    name: str
    goal: str
    module: str
    target: int
    may_fail: float = 0.0


ROWS = (
    Row(name="R23", goal="damaged media: pixels or one line", module="fuzz_media", target=20_000),
    Row(name="R24", goal="cut media: found without a hash", module="fuzz_truncation", target=2_000, may_fail=0.01),
    Row(name="R25", goal="other files under a medium's name: refused", module="fuzz_confusion", target=67),
    Row(name="R26", goal="damaged label files, manifests, configs", module="fuzz_text", target=10_000),
)


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
        command = [sys.executable, str(HERE / "fuzz_child.py"), row.module, str(folder), str(seconds)]
        self.process = subprocess.Popen([*command, *map(str, cases)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.waiting_for = len(cases)
        self.failure = ""

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def lines(self) -> Iterator[dict[str, Any]]:
        """What the child reports; ends with it, or kills it where it reports nothing for too long."""
        stream = self.process.stdout
        assert stream is not None
        text = b""
        limit = START_SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            while selector.select(limit):
                limit = HANG_SECONDS
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
            assert self.process.stderr is not None
            last = self.process.stderr.read().decode(errors="replace").strip().splitlines()[-1:]
            self.failure = f"the process ended with status {status}: {' '.join(last)}"


def totals_of(row: Row, totals: dict[str, Any]) -> dict[str, Any]:
    """What is known about a row; a row of another size or none starts anew."""
    empty = {"goal": row.goal, "target": row.target, "done": 0, "failures": 0, "outcomes": {}, "failed": []}
    known = totals.get(row.name, empty)
    return known if known["target"] == row.target else empty


def advance(row: Row, known: dict[str, Any], work: Path, seconds: float, limit: int) -> dict[str, Any]:
    """Run further cases of a row and return its new totals; failures are also written to a file in `work`."""
    cases = range(known["done"], min(row.target, known["done"] + limit))
    outcomes = Counter(known["outcomes"])
    failed = list(known["failed"])
    done = failures = 0
    work.mkdir(parents=True, exist_ok=True)
    with (work / f"{row.name}.jsonl").open("a", encoding="utf-8") as log:
        for line in run_cases(row, cases, work / row.name, seconds):
            done += 1
            if "failure" in line:
                failures += 1
                failed.append(line)
                log.write(json.dumps(line) + "\n")
            else:
                outcomes[line["outcome"]] += 1
    if not done:
        return known
    return {
        **known,
        "goal": row.goal,
        "done": known["done"] + done,
        "failures": known["failures"] + failures,
        "outcomes": dict(sorted(outcomes.items())),
        "failed": failed[:NAMED],
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": _commit(),
    }


def _commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "s4d", "tests/fuzz")
    return git("rev-parse", "--short", "HEAD") + ("+changes" if changed else "")


def state_of(row: Row, known: dict[str, Any]) -> str:
    """`pass` when whole and within what may fail, `fail` when beyond that, otherwise `open`."""
    if known["failures"] > row.may_fail * (known["done"] if row.may_fail else 0):
        return "fail"
    return "pass" if known["done"] >= row.target else "open"


def print_table(rows: Sequence[Row], totals: dict[str, Any]) -> bool:
    """Print a line for each row; returns whether none fails."""
    print(f"{'row':<5}{'goal':<46}{'done':>15}{'failures':>10}  state")
    states = []
    for row in rows:
        known = totals_of(row, totals)
        states.append(state_of(row, known))
        done = f"{known['done']}/{row.target}"
        print(f"{row.name:<5}{row.goal:<46}{done:>15}{known['failures']:>10}  {states[-1]}")
        for line in known["failed"][:NAMED] if states[-1] == "fail" else ():
            print(f"      case {line['case']}: {line['failure']}")
    return "fail" not in states


def main() -> int:
    """Command line; status 1 where a row fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600, help="time for all rows together")
    parser.add_argument("--rows", nargs="+", choices=[row.name for row in ROWS], default=[row.name for row in ROWS])
    parser.add_argument("--cases", type=int, default=sys.maxsize, help="at most so many of each row in this run")
    parser.add_argument("--again", action="store_true", help="forget the totals of these rows")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, default=WORK, help="folder for files of the cases")
    parser.add_argument("--replay", nargs=2, metavar=("ROW", "CASE"), help="run one case in this process")
    options = parser.parse_args()
    by_name = {row.name: row for row in ROWS}
    if options.replay:
        row = by_name[options.replay[0]]
        module, folder = importlib.import_module(row.module), options.work / "replay"
        folder.mkdir(parents=True, exist_ok=True)
        module.prepare(folder)
        print(module.run(int(options.replay[1]), folder))
        return 0
    rows = [by_name[name] for name in options.rows]
    totals = json.loads(options.results.read_text()) if options.results.exists() else {}
    end = time.monotonic() + options.seconds
    for place, row in enumerate(rows):
        known = totals_of(row, {} if options.again else totals)
        share = (end - time.monotonic()) / (len(rows) - place)
        totals[row.name] = advance(row, known, options.work, share, options.cases)
        options.results.parent.mkdir(parents=True, exist_ok=True)
        aside = options.results.with_suffix(".tmp")
        aside.write_text(json.dumps(totals, indent=1) + "\n")
        aside.replace(options.results)
    return 0 if print_table(rows, totals) else 1


if __name__ == "__main__":
    sys.exit(main())
