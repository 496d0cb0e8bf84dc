"""What `s4d doctor` finds out about one part of a machine: a verdict, and the check that it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# ok: live. warning: live, but something about it should change. idle: sound, but nothing here for it to work on.
# absent: not there. broken: there, but of no use.
State = Literal["ok", "warning", "idle", "absent", "broken"]
LIVE = ("ok", "warning")


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """State and details of one part, the one-line `fix` of any state but ok, and the facts behind it for programs."""

    state: State
    detail: str
    fix: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if bool(self.fix) == (self.state == "ok"):
            raise ValueError(f"{self.state}, {self.detail!r}: a fix belongs to every state but ok, got {self.fix!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """A verdict under its name; an optional part that is not live does not fail the machine."""

    group: str
    name: str
    needed: bool
    verdict: Verdict

    @property
    def passes(self) -> bool:
        """Whether a machine can train as far as this part is concerned."""
        return not self.needed or self.verdict.state in LIVE

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "group": self.group,
            "name": self.name,
            "state": self.verdict.state,
            "live": self.verdict.state in LIVE,
            "needed": self.needed,
            "passes": self.passes,
            "detail": self.verdict.detail,
            "fix": self.verdict.fix,
            "facts": dict(self.verdict.facts),
        }
