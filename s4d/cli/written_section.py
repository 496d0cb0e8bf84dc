"""The part of a page of the documentation that a command writes, between two marker lines."""

from __future__ import annotations

from collections.abc import Sequence

from s4d.errors import DataError


def with_section(text: str, page: str, markers: tuple[str, str], lines: Sequence[str]) -> str:
    """`text` of `page` with `lines` in the place of what is between the markers; DataError where they are missing."""
    begin, end = markers
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise DataError(f"{page}: expected a line {begin} and after it a line {end}")
    return "\n".join([before + begin, "", *lines, "", end]) + after
