"""The phases of a run and how long a rank may stay in one before it counts as hanging."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum


class Phase(IntEnum):
    """What a rank is doing; numbered in the order of a run, the last two but once a step."""

    START = 0
    LOAD = 1
    DATA = 2
    FORWARD = 3
    BACKWARD = 4
    STEP = 5
    EVALUATE = 6
    SAVE = 7
    FINISH = 8

    @property
    def label(self) -> str:
        """The name in messages and in the configuration."""
        return self.name.lower()


# How long another node's watchdog may be silent; no phase, but set beside them.
CONTACT = "contact"

# Seconds. Generous: a false alarm ends a good run, while a hang is as rare as it is expensive. START is also the limit
# of every phase of the first step, in which kernels are compiled.
DEFAULTS: dict[str, float] = {
    Phase.START.label: 1800.0,
    Phase.LOAD.label: 1800.0,
    Phase.DATA.label: 600.0,
    Phase.FORWARD.label: 600.0,
    Phase.BACKWARD.label: 600.0,
    Phase.STEP.label: 600.0,
    Phase.EVALUATE.label: 7200.0,
    Phase.SAVE.label: 1800.0,
    Phase.FINISH.label: 7200.0,
    CONTACT: 60.0,
}


class Limits:
    """Seconds that each phase may take, with `changes` by name over the defaults."""

    def __init__(self, changes: Mapping[str, float]) -> None:
        self.seconds = {**DEFAULTS, **changes}

    def of(self, phase: Phase, *, first_step: bool) -> float:
        """Limit of a phase, longer in the first step."""
        limit = self.seconds[phase.label]
        return max(limit, self.seconds[Phase.START.label]) if first_step else limit

    @property
    def start(self) -> float:
        """Limit of the start, joining the other ranks included."""
        return self.seconds[Phase.START.label]

    @property
    def contact(self) -> float:
        """Limit of another node's silence."""
        return self.seconds[CONTACT]

    @property
    def longest(self) -> float:
        """What no wait of one rank for another may exceed after the first step."""
        return max(self.seconds[phase.label] for phase in Phase if phase is not Phase.START)
