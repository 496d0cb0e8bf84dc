"""Strict YAML: only mappings, lists, text, numbers, true/false and null; nothing that surprises.

Differences from plain PyYAML, each of which has bitten a training run: `1e-3` is a number; `yes`, `no`, `on`, `off`,
`12:30` and `2026-01-01` are text; a key given twice, an alias, a tag, a second document or absurd nesting is an error.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TypeAlias

import yaml

from s4d.errors import UsageError
from s4d.shipped_configs import shipped_like

Value: TypeAlias = "bool | int | float | str | list[Value] | dict[str, Value] | None"

MAX_DEPTH = 16
MAX_BYTES = 1_000_000

RESOLVERS = (
    ("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF"),
    ("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"), "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$"),
        "-+0123456789.",
    ),
)

PLAIN_TAGS = ("bool", "null", "int", "float", "str", "seq", "map")


def _at(place: yaml.Event | yaml.Node, problem: str) -> yaml.YAMLError:
    """The error to raise at a place in the text."""
    mark = place.start_mark
    return yaml.YAMLError(f"{problem} (line {mark.line + 1}, column {mark.column + 1})" if mark else problem)


class StrictLoader(yaml.SafeLoader):
    """SafeLoader with the core-schema scalars and without aliases, tags, duplicate keys and deep nesting."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _at(event, f"alias *{event.anchor} is not allowed")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _at(event, f"nested deeper than {MAX_DEPTH} levels")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.tag != "tag:yaml.org,2002:str":
                raise _at(key_node, "a key that is not text; quote it")
            if key_node.value in seen:
                raise _at(key_node, f"key {key_node.value!r} is given twice")
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """A float; `1E+4` without a point is whole and may stand where an integer is wanted."""
        value = float(node.value)
        if not math.isfinite(value):
            raise _at(node, f"{node.value} is too large")
        return int(value) if "." not in node.value and value.is_integer() else value

    def construct_boolean(self, node: yaml.ScalarNode) -> bool:
        return node.value.lower() == "true"

    def refuse_tag(self, node: yaml.Node) -> None:
        raise _at(node, f"tag {node.tag} is not allowed")


class StrictDumper(yaml.SafeDumper):
    """Writes exactly what `StrictLoader` reads back: text that looks like a number or a truth value is quoted."""

    def ignore_aliases(self, data: object) -> bool:
        return True


StrictLoader.yaml_implicit_resolvers = {}
StrictDumper.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in RESOLVERS:
    StrictLoader.add_implicit_resolver(_tag, _pattern, list(_first))
    StrictDumper.add_implicit_resolver(_tag, _pattern, list(_first))
StrictLoader.yaml_constructors = {
    **{f"tag:yaml.org,2002:{tag}": yaml.SafeLoader.yaml_constructors[f"tag:yaml.org,2002:{tag}"] for tag in PLAIN_TAGS},
    "tag:yaml.org,2002:bool": StrictLoader.construct_boolean,
    "tag:yaml.org,2002:int": lambda loader, node: int(node.value),
    "tag:yaml.org,2002:float": StrictLoader.construct_number,
    None: StrictLoader.refuse_tag,
}


def parse_yaml(text: str, origin: str) -> Value:
    """The one document in `text`; UsageError names `origin` and the line."""
    try:
        return yaml.load(text, StrictLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise UsageError(f"{origin}: not readable as YAML: {error.problem}{where}") from error
    except yaml.reader.ReaderError as error:
        raise UsageError(f"{origin}: not readable as YAML: {error.reason}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"{origin}: {error}") from error


def read_yaml(path: Path | str) -> dict[str, Value]:
    """The mapping in a YAML file; UsageError when it is missing, unreadable or not a mapping."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        shipped = shipped_like(path)
        also = f"; the one that comes with the project is {shipped}" if shipped else ""
        raise UsageError(f"{path}: no such file{also}") from error
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error
    if len(data) > MAX_BYTES:
        raise UsageError(f"{path}: {len(data)} bytes is no configuration (at most {MAX_BYTES})")
    try:
        values = parse_yaml(data.decode("utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text (byte {error.start})") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path}: expected a mapping of keys to values, got {type(values).__name__}")
    return values


def dump_yaml(values: dict[str, Value]) -> str:
    """YAML text that `parse_yaml` reads back to equal values."""
    return yaml.dump(values, Dumper=StrictDumper, sort_keys=False, allow_unicode=True, width=120)
