"""Measuring cases on two sides in turn, and once more on fresh sides where one seems slower."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Protocol

from s4d.analysis.compare.statistic import change_of

# One turn of a side lasts about so long: longer than a scheduler's slice, short against drift.
TURN_SECONDS = 0.15


class AbsentError(Exception):
    """A side that does not have a case; the text is the reason."""


class Side(Protocol):
    """One revision, ready to be timed."""

    def prepare(self, case: str) -> float:
        """Make a case ready and warm; returns the seconds of one call. AbsentError where there is no such case."""
        ...

    def time(self, calls: int) -> float:
        """Seconds of one call, the mean of `calls`, of the case that is ready."""
        ...

    def release(self) -> None:
        """Let go of the case."""
        ...


Sides = Callable[[], AbstractContextManager[tuple[Side, Side]]]


@dataclass(slots=True)
class Comparison:
    """What was found: a row for each case that both sides have, and the others with the reason."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    one_sided: list[dict[str, str]] = field(default_factory=list)

    @property
    def slower(self) -> list[dict[str, Any]]:
        """Rows that were slower both times."""
        return [row for row in self.rows if row["verdict"] == "slower"]


def compare(sides: Sides, cases: Sequence[str], rounds: int, tell: Callable[[str], None]) -> Comparison:
    """Measure all cases; those that seem slower a second time, in processes that are started anew."""
    comparison = Comparison()
    with sides() as (base, head):
        for case in cases:
            row = _measured(base, head, case, rounds, comparison.one_sided)
            if row is not None:
                comparison.rows.append(row)
                tell(_line(row))
    suspects = [row for row in comparison.rows if row["verdict"] == "slower"]
    if suspects:
        with sides() as (base, head):
            for row in suspects:
                again = _measured(base, head, row["case"], rounds, [])
                if again is None:
                    raise AbsentError(f"{row['case']}: was there the first time, and not the second")
                row["again"] = again
                row["verdict"] = "slower" if again["verdict"] == "slower" else "slower once"
                tell(f"again: {_line(again)}")
    return comparison


def _line(row: dict[str, Any]) -> str:
    change = row["change"]
    interval = f"{change['low']:+.1%} to {change['high']:+.1%}"
    return f"{row['case']}: {change['median']:+.1%} ({interval}): {row['verdict']}"


def _measured(base: Side, head: Side, case: str, rounds: int, one_sided: list[dict[str, str]]) -> dict[str, Any] | None:
    """The row of one case, or None with an entry in `one_sided`."""
    seconds, reasons = {}, {}
    for name, side in (("base", base), ("working tree", head)):
        try:
            seconds[name] = side.prepare(case)
        except AbsentError as error:
            reasons[name] = str(error)
    if reasons:
        missing = " and ".join(reasons)
        one_sided.append({"case": case, "missing": missing, "reason": "; ".join(dict.fromkeys(reasons.values()))})
        row = None
    else:
        calls = max(1, ceil(TURN_SECONDS / min(seconds.values())))
        times = _alternating(base, head, rounds, calls)
        change = change_of(times["base"], times["head"])
        verdict = "slower" if change.is_slower else "faster" if change.is_faster else "same"
        row = {"case": case, "calls": calls, **times, "change": change.as_dict(), "verdict": verdict}
    for name, side in (("base", base), ("working tree", head)):
        if name in seconds:
            side.release()
    return row


def _alternating(base: Side, head: Side, rounds: int, calls: int) -> dict[str, list[float]]:
    """Seconds of both sides for each round; who begins changes from round to round, so that drift favours nobody."""
    times: dict[str, list[float]] = {"base": [], "head": []}
    for turn in _turns(rounds):
        times[turn].append((base if turn == "base" else head).time(calls))
    return times


def _turns(rounds: int) -> Iterator[str]:
    for number in range(rounds):
        yield from ("base", "head") if number % 2 == 0 else ("head", "base")
