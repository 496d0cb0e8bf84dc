"""Renders pages from the templates beside this file: one HTML document each, with everything embedded."""

from __future__ import annotations

from pathlib import Path

import jinja2


def render_page(template: str, **values: object) -> str:
    """The document of `template`; a value that the template lacks is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["percent"] = lambda value: "-" if value is None else f"{value:.1%}"
    return environment.get_template(template).render(**values)
