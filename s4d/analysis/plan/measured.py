"""What a profile of the same step on the same GPU says instead of assumptions: `s4d profile step --json FILE`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s4d.analysis.plan.seconds import LAUNCH_SECONDS, Speed
from s4d.analysis.step_work import PARTS
from s4d.errors import DataError

PHASES = ("forward", "backward")


def read_profile(path: Path, speed: Speed) -> tuple[Speed, str]:
    """`speed` with a profile's rates, shares of each part and kernel launches, and its device; DataError if it is none.

    A part that the profiled step had not keeps its assumed share, since then there is nothing to measure.
    """
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if document["what"] != "step":
            raise ValueError(f"field 'what': expected 'step', got {document['what']!r}")
        limits = document["limits"]
        rates = dataclasses.replace(speed.rates, flops=_rate(limits, "flops"), memory=_rate(limits, "bytes"))
        shares = {**speed.shares, **_shares(document)}
        device = str(document["machine"]["device_name"])
        launches = sum(document["launches"].values()) / document["run"]["accumulation"]
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except KeyError as error:
        raise DataError(f"{path}: no profile of a step: field {error} is missing") from error
    except (ValueError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise DataError(f"{path}: no profile of a step: {error}") from error
    return Speed(rates=rates, shares=shares, launch_seconds=LAUNCH_SECONDS * launches), device


def _rate(limits: Mapping[str, Any], name: str) -> float:
    value = float(limits[name])
    if not 0 < value < float("inf"):
        raise ValueError(f"field 'limits.{name}': expected a rate above 0, got {value}")
    return value


def _shares(document: Mapping[str, Any]) -> dict[str, float]:
    """Floor over measured time of each part that took any, and of the optimizer."""
    rows = {part: [document["parts"][part][phase] for phase in PHASES] for part in PARTS}
    rows["optimizer"] = [document["optimizer"]]
    found = {}
    for name, phases in rows.items():
        seconds, floor = (sum(float(phase[key]) for phase in phases) for key in ("seconds", "floor_seconds"))
        if seconds > 0 and floor > 0:
            found[name] = floor / seconds
    return found
