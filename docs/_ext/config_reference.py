"""The configuration reference as Markdown, from the schema that also checks the files."""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from markdown_table import code, table
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from s4d.config import Config
from s4d.config_drift import freedom

Section = type[BaseModel]
COLUMNS = ("field", "meaning", "type", "default", "resume")
LIMITS = {
    "ge": "from {:g}",
    "gt": "over {:g}",
    "le": "to {:g}",
    "lt": "to under {:g}",
    "pattern": "matching `{}`",
    "min_length": "not empty",
}
WORDS = {bool: "true or false", int: "whole number", float: "number", str: "text", type(None): "null"}


def config_reference() -> str:
    """One heading and one table for each section, in the order of a configuration file."""
    return "\n".join(_section_text(prefix, section) for prefix, section in sections())


def sections() -> Iterator[tuple[str, Section]]:
    """Every section with the dotted name that leads to it, the whole file first; N stands for the number in a list.

    A section that stands in two places is given once for each.
    """
    yield from _below("", Config)


def fields(section: Section) -> Iterator[tuple[str, FieldInfo]]:
    """The fields of a section that are no sections themselves."""
    return ((name, field) for name, field in section.model_fields.items() if inner_section(field) is None)


def inner_section(field: FieldInfo) -> Section | None:
    """The section that a field holds, one or a list of them."""
    kind = get_args(field.annotation)[0] if get_origin(field.annotation) is list else field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _below(prefix: str, section: Section) -> Iterator[tuple[str, Section]]:
    yield prefix, section
    for name, field in section.model_fields.items():
        inner = inner_section(field)
        if inner is not None:
            number = ".N" if get_origin(field.annotation) is list else ""
            yield from _below(f"{prefix}{name}{number}.", inner)


def _section_text(prefix: str, section: Section) -> str:
    title = f"`{prefix.rstrip('.')}`" if prefix else "The file itself"
    text = " ".join((section.__doc__ or "").split())
    rows = [_row(name, field) for name, field in fields(section)]
    return f"## {title}\n\n{text}\n\n" + (table(COLUMNS, rows) if rows else "")


def _row(name: str, field: FieldInfo) -> tuple[str, ...]:
    free = freedom(field)
    resume = f"{' and '.join(map(str, free))} alike" if isinstance(free, list) else "free" if free else "fixed"
    default = "required" if field.default is PydanticUndefined else code(_value(field.default))
    return code(name), field.description or "", _kind(field.annotation, _limits(field.metadata)), default, resume


def _kind(annotation: Any, limits: str = "") -> str:
    """A type in the words of a configuration file, with the limits of its values."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation in WORDS:
        text = WORDS[annotation]
    elif origin is Literal:
        text = ", ".join(code(str(value)) for value in inner)
    elif origin in (Union, types.UnionType):
        return " or ".join(_kind(each, "" if each is type(None) else limits) for each in inner)
    elif origin is list:
        text = f"list of {_kind(inner[0])}"
    elif origin is tuple:
        text = f"list of {len(inner)}, each a {_kind(inner[0])}"
    elif origin is dict:
        text = f"mapping of {_kind(inner[0])} to {_kind(inner[1])}"
    elif origin is Annotated:
        text = _kind(inner[0], _limits([part for each in inner[1:] for part in getattr(each, "metadata", [])]))
    else:
        raise TypeError(f"{annotation}: no words for this type")
    return f"{text} {limits}".strip()


def _limits(constraints: Iterable[object]) -> str:
    found = [
        word.format(getattr(constraint, name))
        for constraint in constraints
        for name, word in LIMITS.items()
        if getattr(constraint, name, None) is not None
    ]
    return " ".join(found)


def _value(value: object) -> str:
    """A default as YAML has it."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
