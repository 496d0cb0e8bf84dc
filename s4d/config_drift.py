"""The settings of a run for whoever continues it: value, default, and whether it may change on the way.

A field that may change says so where it is declared, with `json_schema_extra=FREE` or `alike(...)`; a field that says
nothing is part of what the run is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

Setting = dict[str, Any]


def settings(config: BaseModel) -> dict[str, Setting]:
    """Every field by its dotted name, with plain JSON values: `value`, `default` (absent if required), `free`.

    Sections, and lists of sections, are followed; mappings and other lists are one value.
    """
    return dict(_settings(config, config.model_dump(mode="json"), ""))


def may_change(model: type[BaseModel], key: str, old: object, new: object) -> bool:
    """Whether a run may go on with `new` for `old` in the field of a dotted name, or of the one it leads into."""
    node: Any = model
    free: object = False
    for part in key.split("."):
        if isinstance(node, type) and issubclass(node, BaseModel) and part in node.model_fields:
            field = node.model_fields[part]
            node, free = _section_of(field), freedom(field)
    return old in free and new in free if isinstance(free, list) else free is True


def _settings(section: BaseModel, values: dict[str, Any], prefix: str) -> Iterator[tuple[str, Setting]]:
    for name, field in type(section).model_fields.items():
        child, value = getattr(section, name), values[name]
        if isinstance(child, BaseModel):
            yield from _settings(child, value, f"{prefix}{name}.")
        elif isinstance(child, list) and child and all(isinstance(item, BaseModel) for item in child):
            for index, item in enumerate(child):
                yield from _settings(item, value[index], f"{prefix}{name}.{index}.")
        else:
            yield f"{prefix}{name}", {"value": value, **_default(section, name, field), "free": freedom(field)}


def _default(section: BaseModel, name: str, field: FieldInfo) -> Setting:
    if field.is_required():
        return {}
    # The default in the form that values have once they were written as JSON.
    plain = section.model_copy(update={name: field.get_default(call_default_factory=True)})
    return {"default": plain.model_dump(mode="json", include={name})[name]}


def freedom(field: FieldInfo) -> Any:
    """True for a field that may change, False for one that may not, a list of values that are as good as each other."""
    word = field.json_schema_extra.get("resume") if isinstance(field.json_schema_extra, dict) else None
    return True if word == "free" else word or False


def _section_of(field: FieldInfo) -> Any:
    """The section that a field holds, one or a list of them."""
    kind: Any = field.annotation
    arguments = getattr(kind, "__args__", ())
    return arguments[0] if getattr(kind, "__origin__", None) is list and arguments else kind
