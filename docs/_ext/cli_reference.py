"""The command reference as Markdown, from the tree of commands itself."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin

from markdown_table import code, table
from typer.main import get_command

from s4d.cli.app import build_app

WORDS = {bool: "flag", int: "whole number", float: "number", str: "text", Path: "path"}


def cli_reference() -> str:
    """One heading for each command with a table of what it takes; groups stand after the commands without one."""
    root = get_command(build_app())
    alone = [_command_text((name,), command) for name, command in _children(root) if not _children(command)]
    groups = [
        f"## s4d {name}\n\n{_paragraphs(group)}\n"
        + "\n".join(_command_text((name, inner), command) for inner, command in _children(group))
        for name, group in _children(root)
        if _children(group)
    ]
    return "\n".join(["## Commands without a group\n", *alone, *groups])


def commands() -> Iterator[tuple[str, Any]]:
    """Every command and group with the words that call it."""
    stack: list[tuple[str, Any]] = [("s4d", get_command(build_app()))]
    while stack:
        words, command = stack.pop()
        stack += [(f"{words} {name}", inner) for name, inner in _children(command)]
        yield words, command


def parameters() -> Iterator[tuple[str, str, str]]:
    """Every argument and option as the command's words, its own name and its help text."""
    return ((words, _name(each), _help(each)) for words, command in commands() for each in _parameters(command))


def _command_text(path: tuple[str, ...], command: Any) -> str:
    rows = [(_name(each), _help(each), _kind(each), _default(each)) for each in _parameters(command)]
    listed = table(("argument or option", "meaning", "value", "default"), rows) if rows else "It takes no options.\n"
    return f"### s4d {' '.join(path)}\n\n{_paragraphs(command)}\n\n{listed}"


def _children(command: Any) -> list[tuple[str, Any]]:
    return list(getattr(command, "commands", {}).items())


def _parameters(command: Any) -> list[Any]:
    return [each for each in command.params if each.name != "help" and not getattr(each, "hidden", False)]


def _paragraphs(command: Any) -> str:
    return inspect.cleandoc(command.help or "")


def _name(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return code(parameter.name.upper() + (" ..." if parameter.nargs == -1 else ""))
    return ", ".join(code(name) for name in (*parameter.opts, *parameter.secondary_opts))


def _help(parameter: Any) -> str:
    # A placeholder such as <device> would be taken for HTML.
    return (parameter.help or "").replace("<", "&lt;")


def _kind(parameter: Any) -> str:
    kind = parameter.type_descriptor.annotation
    if get_origin(kind) is list:
        kind = get_args(kind)[0]
    if isinstance(kind, type) and issubclass(kind, Enum):
        return ", ".join(code(str(member.value)) for member in kind)
    ends = {"from": parameter.min, "to": parameter.max}
    limits = [f"{word} {value}" for word, value in ends.items() if value is not None]
    text = " ".join([WORDS[kind], *limits])
    return f"{text}, repeatable" if parameter.multiple else text


def _default(parameter: Any) -> str:
    value = parameter.default
    if parameter.required:
        return "required"
    if value is None or value is False or value == ():
        return ""
    return code(str(value.value if isinstance(value, Enum) else value))
