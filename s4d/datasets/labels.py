"""Class names: one spelling for each expression, and the public orders in which codebases number them.

A class travels by its name. An order matters in two places only: it is the order of a head's outputs, and it says what
bare numbers in a label file mean. Three public orders are known by the codebase that uses them.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from s4d.datasets import CLASS_NAMES
from s4d.errors import UsageError

# Other spellings of a class, in lower case -> the one used here.
SYNONYMS: dict[str, str] = {
    "angry": "anger",
    "anxious": "anxiety",
    "contemptuous": "contempt",
    "disappointed": "disappointment",
    "disgusted": "disgust",
    "fearful": "fear",
    "happy": "happiness",
    "helpless": "helplessness",
    "sad": "sadness",
    "suprise": "surprise",
    "surprised": "surprise",
}

MAFW_NATIVE = (
    "anger",
    "disgust",
    "fear",
    "happiness",
    "neutral",
    "sadness",
    "surprise",
    "contempt",
    "anxiety",
    "helplessness",
    "disappointment",
)
DFEW_NATIVE = CLASS_NAMES["dfew"]

# Dataset -> name of an order -> class names. `s4d` is the order of the S4D release, which CLASS_NAMES holds.
ORDERS: dict[str, dict[str, tuple[str, ...]]] = {
    "affectnet": {"s4d": CLASS_NAMES["affectnet"]},
    "affectnet8": {"s4d": CLASS_NAMES["affectnet8"]},
    "dfew": {"s4d": DFEW_NATIVE, "mae-dfer": DFEW_NATIVE, "dfer-clip": DFEW_NATIVE},
    "ferv39k": {"s4d": CLASS_NAMES["ferv39k"], "mae-dfer": DFEW_NATIVE, "dfer-clip": DFEW_NATIVE},
    "mafw": {
        "s4d": CLASS_NAMES["mafw"],
        "mae-dfer": MAFW_NATIVE,
        "dfer-clip": (*DFEW_NATIVE, "contempt", "anxiety", "helplessness", "disappointment"),
    },
    "rafdb": {"s4d": CLASS_NAMES["rafdb"]},
}


def canonical(name: str) -> str:
    """The one spelling of a class name: lower case, `happy` and `Happiness` are both `happiness`."""
    plain = name.strip().lower()
    return SYNONYMS.get(plain, plain)


def order_of(dataset: str, name: str, field: str) -> tuple[str, ...]:
    """Class names of `dataset` in the public order `name`; UsageError, naming `field`, for an unknown one."""
    orders = ORDERS.get(dataset, {})
    if name not in orders:
        known = f"known: {', '.join(orders)}" if orders else f"dataset {dataset} has no named orders"
        close = difflib.get_close_matches(name, orders, n=1)
        hint = f", did you mean {close[0]}?" if close else ""
        raise UsageError(f"{field}: no label order {name!r} for dataset {dataset}{hint} ({known})")
    return orders[name]


def numbering(classes: Sequence[str], stated_in: str, dataset: str | None = None) -> dict[str, Any]:
    """How a head's outputs are numbered, what gave that order, and which public orders of the dataset are the same."""
    same = [name for name, order in ORDERS.get(dataset or "", {}).items() if order == tuple(classes)]
    return {
        "index": {name: number for number, name in enumerate(classes)},
        "stated_in": stated_in,
        "dataset": dataset,
        "public_orders": same,
    }
