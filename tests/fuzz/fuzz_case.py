"""What every kind of case shares: how a refusal must look."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from s4d.errors import UserError


def one_line(error: UserError, *names: Path | str) -> str:
    """`refused` for an error of one line that holds one of `names`; AssertionError for any other."""
    text = str(error)
    assert len(text.splitlines()) == 1, f"{len(text.splitlines())} lines: {text!r}"
    assert not strange_letters(text), f"control characters: {text!r}"
    assert any(str(name) in text for name in names), f"names no file: {text!r}"
    return "refused"


def strange_letters(text: str) -> set[str]:
    """Kinds of letters in `text` that a terminal would obey instead of showing them."""
    return {unicodedata.category(letter) for letter in text} & {"Cc", "Cs", "Zl", "Zp"}
