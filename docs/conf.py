"""How Sphinx builds the manual: `make docs` writes it to build/docs, and every warning is an error."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE / "_ext"), str(ROOT)]

from s4d import __version__  # noqa: E402  (the path above makes it importable without an installed project)

project = "S4D engine"
author = "The S4D engine authors"
release = version = __version__
extensions = ["myst_parser", "generated_pages", "offline_math"]
html_math_renderer = "mathml"
myst_enable_extensions = ["dollarmath"]
# Anchors for the headings that links of the README and of other pages name, as a repository browser makes them.
myst_heading_anchors = 3
# Quotes alone: two hyphens are the beginning of an option.
smartquotes_action = "q"
exclude_patterns = ["_ext"]
html_theme = "furo"
html_title = f"{project} {release}"
html_static_path = ["_static"]
html_css_files = ["manual.css"]
html_copy_source = False
html_show_copyright = False
