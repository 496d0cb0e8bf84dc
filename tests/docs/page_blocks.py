"""Code blocks of the pages, and the commands in them.

A block is what Markdown calls one: fenced or indented, in a list too. What it is follows from its language or content.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    *sorted(path for path in ROOT.glob("*.md") if path.name != "CHANGELOG.md"),
    *(ROOT / folder / "README.md" for folder in ("configs", "benchmarks")),
    *sorted((ROOT / "docs").glob("*.md")),
)
PROGRAMS = {"s4d", "make", "deepspeed", "python", "python3", "pip", "docker", "export", "git", "sbatch", "cd", "source"}
# What stands for something else in the form of a command: [option], NAME, a|b, more ..., <name>.
PLACEHOLDER = re.compile(r"[\[\]<>]|\.\.\.|(?<![\w=/.-])[A-Z]{2,}(?![\w=/.])|\w\|\w")

Kind = Literal["commands", "script", "python", "yaml", "directive", "shown"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """One command of a page on one line."""

    page: str
    text: str

    @property
    def words(self) -> list[str]:
        """Program and arguments; the program without its folder."""
        first, *rest = shlex.split(self.text)
        return [first.removeprefix(".venv/bin/"), *rest]

    @property
    def is_form(self) -> bool:
        """Shows how a command is written, with placeholders, and cannot be run as it stands."""
        return PLACEHOLDER.search(self.text) is not None

    @property
    def key(self) -> tuple[str, str]:
        """What it is listed by: page and text."""
        return self.page, self.text.removeprefix(".venv/bin/")


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """One code block: its page from the repository's root, line from 1, language of a fence, text without indent."""

    page: str
    line: int
    language: str
    text: str

    @property
    def key(self) -> tuple[str, str]:
        """What it is listed by: page and first line."""
        return self.page, next(iter(self.text.strip().splitlines()), "").strip()

    @property
    def kind(self) -> Kind:
        """What to do with it."""
        if self.language.startswith("{") or self.language in ("mermaid", "math"):
            return "directive"
        if self.language == "yaml":
            return "yaml"
        if self.language == "python" or self.text.startswith(("import ", "from ")):
            return "python"
        if self.text.startswith("#!"):
            return "script"
        programs = {line.split()[0].removeprefix(".venv/bin/") for line in _joined(self.text)}
        return "commands" if programs and programs <= PROGRAMS else "shown"

    def commands(self) -> list[Command]:
        """Its commands; none of a block of another kind."""
        texts = _joined(self.text) if self.kind == "commands" else []
        return [Command(page=self.page, text=text) for text in texts]


@cache
def blocks() -> tuple[Block, ...]:
    """All code blocks of all pages that exist, page by page."""
    return tuple(block for page in PAGES if page.exists() for block in _blocks(page))


@cache
def commands() -> tuple[Command, ...]:
    """All commands that stand in blocks of their own."""
    return tuple(command for block in blocks() for command in block.commands())


def inline_code() -> Iterator[tuple[str, str]]:
    """Page and text of everything that stands as code inside a line."""
    for path in PAGES:
        for token in _tokens(path):
            for child in token.children or ():
                if child.type == "code_inline":
                    yield path.relative_to(ROOT).as_posix(), " ".join(child.content.split())


def _tokens(path: Path) -> list:
    return MarkdownIt("commonmark").enable("table").parse(path.read_text(encoding="utf-8"))


def _blocks(path: Path) -> Iterator[Block]:
    page = path.relative_to(ROOT).as_posix()
    for token in _tokens(path):
        if token.type in ("fence", "code_block"):
            yield Block(page=page, line=token.map[0] + 1, language=token.info.strip(), text=token.content)


def _joined(text: str) -> list[str]:
    """Commands of a text, each with what continues it on further lines and without remarks."""
    text = re.sub(r"(^|\s)#.*", "", text, flags=re.MULTILINE)
    text = re.sub(r"\s*\\\n\s*|\n[ \t]+", " ", text)
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]
