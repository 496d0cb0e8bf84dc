"""What every section of the configuration has in common."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict
from pydantic.types import JsonValue

Modality = Literal["image", "video"]

# For `json_schema_extra` of a field that may change when a run is continued, because it leaves every step as it was (to
# rounding, where it says how a step is divided). A field without it is part of what the run is.
FREE: dict[str, JsonValue] = {"resume": "free"}


def alike(*values: JsonValue) -> dict[str, JsonValue]:
    """The same for a field of which only some values are as good as each other."""
    return {"resume": list(values)}


class Section(BaseModel):
    """Base of every section: unknown keys are refused, values are immutable after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)
