"""JSON that every reader accepts: numbers that are not finite become null."""

from __future__ import annotations

import json
import math


def to_json(document: object) -> str:
    """Indented JSON text of plain values, ending with a newline."""
    return json.dumps(finite(document), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def finite(value: object) -> object:
    """`value` with text keys, lists for tuples and None for NaN and infinities."""
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
