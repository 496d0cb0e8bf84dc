"""Which rank is to blame, and the one line that says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict


class Record(TypedDict):
    """One rank as its node's watchdog sees it."""

    rank: int
    world_size: int
    host: str
    step: int
    phase: str
    count: int
    silent: float
    limit: float
    state: str
    waiting: bool
    frame: str
    stack: list[str]


class Cause(TypedDict):
    """Why a run was ended; `ranks` holds what was known about each rank, the stacks included."""

    line: str
    ranks: list[Any]


def place_of(record: Record) -> str:
    """Rank, host, step and phase."""
    where = f"rank {record['rank']} of {record['world_size']} on {record['host']}"
    return f"{where}: step {record['step']}, {record['phase']}"


def suspect_of(records: Sequence[Record]) -> Record:
    """The rank that keeps the others waiting.

    A stopped one first; else one that is not within a collective; else, and among several, the one that has come least
    far: every rank goes through the same phases, so the counts of their changes can be compared. The others may be
    silent for longer than their own phases allow without anything being wrong: it is the suspect's limit that counts.
    """
    return min(records, key=lambda record: (record["state"] != "T", record["waiting"], record["count"]))


def cause_of_hang(suspect: Record, records: Sequence[Record]) -> Cause:
    """A rank that is silent for too long."""
    silent = f"silent for {suspect['silent']:.1f} s (limit {suspect['limit']:g} s)"
    stack = "; its stack is in failure.json" if suspect["stack"] else ""
    return Cause(line=f"{place_of(suspect)}: {silent}, {_what(suspect)}{stack}", ranks=list(records))


def _what(record: Record) -> str:
    if record["state"] == "T":
        return "stopped by a signal"
    if not record["stack"]:
        return f"does not answer signals (state {record['state']})"
    if record["waiting"]:
        return f"waiting for other ranks in {record['frame']}"
    return f"at {record['frame'] or 'an unknown place'}"


def cause_of_end(record: Record, how: str) -> Cause:
    """A rank that is gone without a word."""
    return Cause(line=f"{place_of(record)}: {how}, silent for {record['silent']:.1f} s", ranks=[record])
