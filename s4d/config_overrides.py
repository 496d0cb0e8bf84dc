"""Dotted `section.key=value` overrides of a configuration, as given on a command line."""

from __future__ import annotations

from s4d.config_yaml import Value, parse_yaml
from s4d.errors import UsageError

ORIGIN = "command line"


def apply_overrides(values: dict[str, Value], overrides: list[str]) -> list[str]:
    """Change `values` in place; returns the dotted keys that were set. List items are addressed by index."""
    keys = []
    for text in overrides:
        key, equals, value_text = text.partition("=")
        key = key.strip()
        if not equals or not key or not all(key.split(".")):
            raise UsageError(f"{ORIGIN}: {text!r}: expected section.key=value")
        if not value_text.strip():
            raise UsageError(f"{ORIGIN}: {key}: no value given (write null for none)")
        _set(values, key, parse_yaml(value_text, f"{ORIGIN}: {key}"))
        keys.append(key)
    return keys


def _set(values: dict[str, Value], key: str, value: Value) -> None:
    """Follow `key` through mappings and lists, creating missing mappings on the way."""
    node: Value = values
    parts = key.split(".")
    for depth, part in enumerate(parts):
        here = ".".join(parts[: depth + 1])
        last = depth == len(parts) - 1
        if isinstance(node, dict):
            if last:
                node[part] = value
            elif node.get(part) is None:
                node[part] = {}
            node = node[part]
        elif isinstance(node, list):
            index = _index(part, len(node), here)
            if last:
                node[index] = value
            node = node[index]
        else:
            raise UsageError(f"{ORIGIN}: {here}: {'.'.join(parts[:depth])} is {node!r}, which has no parts")


def _index(part: str, length: int, key: str) -> int:
    if not part.isascii() or not part.isdigit() or int(part) >= length:
        raise UsageError(f"{ORIGIN}: {key}: expected an index from 0 to {length - 1}, got {part!r}")
    return int(part)
