"""The matrix of faults: what happens to which rank in which phase, and what must follow. Shared by one node and two."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

INJECT = Path(__file__).resolve().parent / "inject"
KINDS = ("sigstop", "exit0", "gil", "exception", "sigkill", "busy", "exit1", "sigsegv", "slow")
PHASES = ("forward", "save", "backward", "data", "evaluate", "step")
RANKS = ("last", 0)
ENDS = ("exit0", "exit1", "sigkill", "sigsegv")
WORDS = {
    "sigstop": "stopped by a signal",
    "busy": "in _busy",
    "gil": "in _hold_gil",
    "exit0": "left with status 0 in the middle of the run",
    "exit1": "status 1",
    "sigkill": "SIGKILL",
    "sigsegv": "SIGSEGV",
    "exception": "InjectedError: injected",
}

STEP = 3
LIMIT = 4.0
# Steps of this project take well below a second; evaluation and saving as well.
LIMITS = dict.fromkeys(("load", "data", "forward", "backward", "step", "evaluate", "save"), LIMIT)
ARGUMENTS = (
    "engine.steps=6",
    "engine.save_every=3",
    "engine.eval_every=3",
    "data.val_share=0.3",
    "engine.phase_seconds=" + json.dumps({**LIMITS, "start": 30, "finish": 10, "contact": 5}),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One fault."""

    kind: str
    phase: str
    rank: str | int

    def environment(self, note: Path) -> dict[str, str]:
        """What makes it happen; `note` gets the monotonic time at which it does."""
        fault = {"kind": self.kind, "phase": self.phase, "rank": self.rank, "step": STEP, "note": str(note)}
        return {"PYTHONPATH": str(INJECT), "S4D_FAULT": json.dumps(fault)}

    def check_line(self, errors: list[str], world_size: int) -> None:
        """AssertionError unless one line names rank, host, step, phase and what happened."""
        assert len(errors) == 1, errors
        rank = world_size - 1 if self.rank == "last" else self.rank
        place = rf"error: rank {rank} of {world_size} on \S+: step {STEP}, {self.phase}: "
        assert re.match(place, errors[0]), errors[0]
        # How a process ended is unknown once its parent has asked; that it did is not.
        assert WORDS[self.kind] in errors[0] or (self.kind in ENDS and "gone" in errors[0]), errors[0]
        assert self.kind == "exception" or re.search(r"silent for \d+\.\d s", errors[0]), errors[0]


# All of them, in an order in which neighbours differ in everything.
CELLS = [
    Cell(kind=KINDS[at % 9], phase=PHASES[(at + at // 18) % 6], rank=RANKS[(at + at // 9) % 2])
    for at in range(9 * 6 * 2)
]
