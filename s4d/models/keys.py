"""An account of every tensor when weights move from one naming to another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyReport:
    """Where each source tensor went and what the target did not get.

    `mapped` are source names whose tensor was taken as it is under the target name; `transformed` those that became
    part of another tensor; `unused` and `missing` (target names) come with their reason. `notes` say what else changed.
    """

    source: str
    mapped: Mapping[str, str] = field(default_factory=dict)
    transformed: Mapping[str, str] = field(default_factory=dict)
    unused: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def summary(self) -> str:
        """One line of counts, with the reasons."""
        line = f"{self.source}: {len(self.mapped)} tensors taken, {len(self.transformed)} combined"
        for title, reasons in (("unused", self.unused), ("not in the file", self.missing)):
            if reasons:
                kinds = ", ".join(sorted(set(reasons.values())))
                line += f", {len(reasons)} {title} ({kinds})"
        return line
