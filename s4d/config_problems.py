"""Turns validation failures into one line that names the file, the field and, for a typo, the likely key."""

from __future__ import annotations

import difflib
from typing import get_args

from pydantic import BaseModel, ValidationError

WORDING = {
    "missing": "missing",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "string_type": "expected text",
    "list_type": "expected a list",
    "tuple_type": "expected a list",
    "dict_type": "expected a mapping of keys to values",
    "model_type": "expected a section (a mapping of keys to values)",
    "model_attributes_type": "expected a section (a mapping of keys to values)",
}
WITH_VALUE = 60


def describe(error: ValidationError, model: type[BaseModel], origin: str, overridden: tuple[str, list[str]]) -> str:
    """One line for the first problem (unknown keys first: they explain missing ones), with the count of the rest.

    `overridden` is the name of the second origin and the dotted keys that came from it.
    """
    problems = sorted(error.errors(include_url=False), key=lambda problem: problem["type"] != "extra_forbidden")
    first = problems[0]
    location = tuple(part for part in first["loc"] if part != "[key]")
    field = ".".join(str(part) for part in location)
    message = _message(dict(first), model, location)
    second_origin, keys = overridden
    if field and any(field == key or field.startswith(key + ".") or key.startswith(field + ".") for key in keys):
        origin = second_origin
    rest = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{origin}: {field}: {message}{rest}" if field else f"{origin}: {message}{rest}"


def suggestion(wrong: str, known: list[str]) -> str:
    """The end of a message about an unknown name: the closest known one, or all of them."""
    swapped = [name for name in known if sorted(name) == sorted(wrong)]
    close = swapped or difflib.get_close_matches(wrong, known, n=1, cutoff=0.55)
    return f"did you mean {close[0]!r}?" if close else "known: " + ", ".join(known)


def _message(problem: dict, model: type[BaseModel], location: tuple[int | str, ...]) -> str:
    kind, given = problem["type"], problem["input"]
    if kind == "extra_forbidden":
        section = _section_at(model, location[:-1])
        return f"unknown key; {suggestion(str(location[-1]), list(section.model_fields))}"
    if kind == "literal_error":
        expected = problem["ctx"]["expected"]
        names = [name.strip(" '") for name in expected.replace(" or ", ",").split(",")]
        return f"expected {expected}, got {given!r}; {suggestion(str(given), names)}".split("; known:")[0]
    if kind == "value_error":
        return str(problem["ctx"]["error"])
    text = WORDING.get(kind, problem["msg"][0].lower() + problem["msg"][1:])
    shown = repr(given)
    return text if kind == "missing" or len(shown) > WITH_VALUE else f"{text}, got {shown}"


def _section_at(model: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel]:
    """The section a location lies in, following fields, list items and mapping values."""
    node: object = model
    for part in location:
        if isinstance(node, type) and issubclass(node, BaseModel):
            node = node.model_fields[str(part)].annotation
        else:
            node = get_args(node)[-1]
    if not (isinstance(node, type) and issubclass(node, BaseModel)):
        raise TypeError(f"{location} is not a section")
    return node
