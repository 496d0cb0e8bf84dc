"""What makes a run the run it is: its settings, and which of them a continuation may change.

A setting is a plain dictionary, so that it can be stored in a checkpoint as it is: `value`; `default`, what a run did
before the setting existed (absent where there is no such thing); `free`, True where a change leaves every step as it
was, or a list of values that mean the same. What is not said to be free must not change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.protocols import Batches, RunConfig

Settings = Mapping[str, Mapping[str, Any]]

SHOWN = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Drift:
    """Lines `field: old -> new` about the settings that differ: those that may, and those that must not."""

    accepted: tuple[str, ...]
    refused: tuple[str, ...]


def find_drift(old: Settings, new: Settings) -> Drift:
    """Compare the settings of a checkpoint with those of the run that would continue it.

    A setting that only one of them knows, as another version of the engine does, has its default in the other.
    """
    accepted: list[str] = []
    refused: list[str] = []
    for field in {**old, **new}:
        if not isinstance(old.get(field, {}), Mapping):
            refused.append(f"{field}: is no setting")
            continue
        before = old.get(field, _unset(new.get(field, {})))
        after = new.get(field, _unset(old.get(field, {})))
        if "value" in before and "value" in after and before["value"] == after["value"]:
            continue
        line = f"{field}: {_text(before)} -> {_text(after)}"
        (accepted if _may_change(before, after) else refused).append(line)
    return Drift(accepted=tuple(accepted), refused=tuple(refused))


def run_settings(config: RunConfig, batches: Batches, world_size: int) -> Settings:
    """The settings of a run: its configuration, what follows from the data, and how many ranks share the work."""
    derived = {**batches.fingerprints(), "total_steps": batches.total_steps}
    return {
        **config.settings(),
        **{name: {"value": value, "free": False} for name, value in derived.items()},
        "samples_per_step": {"value": dict(batches.samples_per_step), "free": False},
        "world_size": {"value": world_size, "free": True},
    }


def _unset(known: Mapping[str, Any]) -> dict[str, Any]:
    """What one side knows of a setting, as the side that has never heard of it sees it."""
    unset = {"free": known.get("free", False)}
    return {**unset, "value": known["default"]} if "default" in known else unset


def _may_change(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    # The continuation decides: it may have learned since that a setting matters.
    free = after.get("free", False)
    if isinstance(free, list):
        return before.get("value") in free and after.get("value") in free
    return free is True


def _text(setting: Mapping[str, Any]) -> str:
    if "value" not in setting:
        return "(not set)"
    text = "null" if setting["value"] is None else str(setting["value"])
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
