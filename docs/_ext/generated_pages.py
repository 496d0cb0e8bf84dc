"""Sphinx extension: pages are read as `page_sources` makes them."""

from __future__ import annotations

import page_sources
from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx; every page passes through `page_sources.expanded` before it is parsed."""
    app.connect("source-read", _read)
    return {"parallel_read_safe": True}


def _read(app: Sphinx, name: str, source: list[str]) -> None:
    source[0] = page_sources.expanded(source[0])
