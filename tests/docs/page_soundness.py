"""What can be said of a command without running it: it exists, and takes what the page gives it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin

from page_blocks import ROOT
from typer.main import get_command

from s4d.cli.app import build_app
from s4d.config import load

BASE = ROOT / "configs/finetune/demo.yaml"
SOURCES = ("configs/", "engine/", "kernels/", "s4d/", "tests/", "docs/")
LAUNCHER = {
    "--hostfile": 1,
    "--launcher": 1,
    "--master_addr": 1,
    "--master_port": 1,
    "--no_ssh": 0,
    "--node_rank": 1,
    "--num_accelerators": 1,
    "--num_gpus": 1,
    "--num_nodes": 1,
}


class UnsoundError(Exception):
    """A command that cannot work as it stands."""


def check(text: str, *, form: bool) -> None:
    """UnsoundError with the reason if a command is unknown or cannot take these arguments.

    A form has placeholders: there, names of options and choices are checked, and not the values.
    """
    program, *rest = shlex.split(text)
    for word in rest:
        if word.startswith(SOURCES) and "..." not in word and not (ROOT / word).exists():
            raise UnsoundError(f"{word}: no such file in the repository")
    program = program.removeprefix(".venv/bin/")
    if program == "s4d":
        _check_form(rest) if form else _check_command(rest)
    elif program == "make":
        _check_make(rest)
    elif program == "deepspeed":
        _check_training(_after_launcher(rest))


def _check_command(words: Sequence[str]) -> None:
    path, command, rest = _find(words)
    if _children(command):
        raise UnsoundError(f"s4d {' '.join(path)}: a group of commands, not one of them")
    try:
        given = command.make_context(" ".join(path), list(rest)).params
    except Exception as error:
        raise UnsoundError(f"s4d {' '.join(words)}: {getattr(error, 'message', None) or error}") from error
    file = given.get("config", given.get("path"))
    overrides = list(given.get("overrides") or ())
    if isinstance(file, Path) and file.suffix == ".yaml" and (ROOT / file).is_file():
        load(ROOT / file, overrides)
    elif overrides:
        load(BASE, overrides)


def _check_form(words: Sequence[str]) -> None:
    path, command, rest = _find(words)
    name = f"s4d {' '.join(path)}"
    rest = [word.strip("[]") for word in rest]
    if _children(command) and rest and rest[0][0] != "-":
        if rest[0].isupper():  # any of its commands
            return
        raise UnsoundError(f"{name}: no command {rest[0]!r}")
    options = {option: each for each in command.params for option in (*each.opts, *each.secondary_opts)}
    if rest and rest[0][0] != "-" and not any(each.param_type_name == "argument" for each in command.params):
        raise UnsoundError(f"{name}: takes no arguments, such as {rest[0]!r}")
    for word, following in zip(rest, [*rest, ""][1:], strict=True):
        if not word.startswith("--") or word == "--help":
            continue
        if word not in options:
            raise UnsoundError(f"{name}: no option {word}")
        strange = set(following.split("|")) - _choices(options[word]) if "|" in following else set()
        if strange and following.islower():
            raise UnsoundError(f"{name} {word}: no choice {', '.join(sorted(strange))}")


def _check_make(words: Sequence[str]) -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        name, equals, _ = word.partition("=")
        pattern = rf"^(?:[\w-]+: )?{re.escape(name)} *[?:]?=" if equals else rf"^{re.escape(name)}:.*##"
        if not re.search(pattern, text, re.MULTILINE):
            raise UnsoundError(f"make {word}: the Makefile has no such {'variable' if equals else 'target'}")


def _after_launcher(words: Sequence[str]) -> list[str]:
    rest = list(words)
    while rest and rest[0].startswith("--"):
        name = rest.pop(0)
        if name not in LAUNCHER:
            raise UnsoundError(f"deepspeed {name}: not an option that the launcher is known to have")
        del rest[: LAUNCHER[name]]
    if rest[:1] != ["engine/train.py"]:
        raise UnsoundError(f"deepspeed: starts {rest[:1]}, not engine/train.py")
    return rest[1:]


def _check_training(words: Sequence[str]) -> None:
    from engine.command_line import parse_arguments

    options = parse_arguments(list(words))
    load(ROOT / options.config, options.overrides)


@cache
def _root() -> Any:
    return get_command(build_app())


def _find(words: Sequence[str]) -> tuple[list[str], Any, Sequence[str]]:
    """Words of the command that `words` begin with, the command, and what is left of them."""
    command, count = _root(), 0
    while count < len(words) and words[count] in _children(command):
        command = _children(command)[words[count]]
        count += 1
    if not count and words and words[0].islower() and words[0][0] != "-":
        raise UnsoundError(f"s4d {words[0]}: no such command")
    return list(words[:count]), command, words[count:]


def _children(command: Any) -> dict[str, Any]:
    return dict(getattr(command, "commands", {}))


def _choices(parameter: Any) -> set[str]:
    kind = parameter.type_descriptor.annotation
    if get_origin(kind) is list:
        kind = get_args(kind)[0]
    return {str(member.value) for member in kind} if isinstance(kind, type) and issubclass(kind, Enum) else set()
