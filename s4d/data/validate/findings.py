"""What the checks say: one line each, with its place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One line about the data. `file` is a medium's path or the manifest's, `row` counts the manifest's rows from 1.

    `code` names the kind of finding for programs; `field` is the manifest column it is about.
    """

    severity: Severity
    code: str
    text: str
    file: str = ""
    row: int | None = None
    field: str = ""

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise ValueError(f"severity must be one of {', '.join(SEVERITIES)}, got {self.severity!r}")

    def line(self) -> str:
        """The finding as people read it."""
        place = [self.file] if self.file else []
        place += [f"row {self.row}"] if self.row is not None else []
        place += [f"field {self.field!r}"] if self.field else []
        return ": ".join([*place, self.text])


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """The outcome for one manifest, worst first.

    `counts` has the rows of each class by split (folds as `train 1`); `facts` are numbers that the checks met and
    `values` the measures behind them, one per face; `looked_at` says in one line which media were decoded for it.
    """

    manifest: Path
    items: tuple[Finding, ...]
    rows: int = 0
    media: int = 0
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    facts: Mapping[str, object] = field(default_factory=dict)
    values: Mapping[str, Sequence[float]] = field(default_factory=dict)
    looked_at: str = ""

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Findings that make the data unfit as they are."""
        return tuple(item for item in self.items if item.severity == "error")

    @property
    def severities(self) -> dict[Severity, int]:
        """Number of findings of each severity."""
        return {severity: sum(item.severity == severity for item in self.items) for severity in SEVERITIES}

    @property
    def codes(self) -> Counter[str]:
        """Number of findings of each code."""
        return Counter(item.code for item in self.items)

    def of(self, code: str) -> tuple[Finding, ...]:
        """The findings of one code."""
        return tuple(item for item in self.items if item.code == code)

    def document(self) -> dict[str, object]:
        """Everything but `values`, for JSON."""
        return {
            "manifest": str(self.manifest),
            "rows": self.rows,
            "media": self.media,
            "looked_at": self.looked_at,
            "severities": self.severities,
            "counts": self.counts,
            "facts": self.facts,
            "findings": [asdict(item) for item in self.items],
        }


def summary(severity: Severity, code: str, affected: Sequence[str], of: int, text: str) -> Finding:
    """One finding about many media: how many of how many, and the first of them."""
    return Finding(severity=severity, code=code, text=f"{len(affected)} of {of} media {text} (first: {affected[0]})")
