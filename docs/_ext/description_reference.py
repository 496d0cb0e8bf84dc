"""The keys of a checkpoint's `config.json` as Markdown, from the schema that also reads it."""

from __future__ import annotations

from typing import Any, get_args

from markdown_table import code, table
from pydantic import BaseModel

from s4d.models.description import Description

Part = type[BaseModel]


def description_reference() -> str:
    """A table of all keys, then one for each key that holds more."""
    texts = [_table(Description)]
    for key, part, by_name in parts():
        text = " ".join((part.__doc__ or "").split())
        texts.append(f"`{key}{'.NAME' if by_name else ''}`: {text}\n\n{_table(part)}")
    return "\n".join(texts)


def parts(of: Part = Description, prefix: str = "") -> list[tuple[str, Part, bool]]:
    """Dotted key, schema, and whether one stands there for each name, of every key that holds more keys."""
    found: list[tuple[str, Part, bool]] = []
    for name, field in of.model_fields.items():
        part = _part_in(field.annotation)
        if part is not None:
            by_name = getattr(field.annotation, "__origin__", None) is dict
            found += [(prefix + name, part, by_name), *parts(part, f"{prefix}{name}.")]
    return found


def _part_in(annotation: Any) -> Part | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((part for part in map(_part_in, get_args(annotation)) if part is not None), None)


def _table(part: Part) -> str:
    return table(
        ("key", "meaning"), [(code(name), field.description or "") for name, field in part.model_fields.items()]
    )
