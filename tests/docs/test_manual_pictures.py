"""The manual's pictures: drawn by the scripts beside them, described in words, without words outside their paper."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path
from xml.etree import ElementTree

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
PICTURES = [
    path.with_name(path.stem.removeprefix("draw_") + ".svg") for path in sorted((DOCS / "pictures").glob("draw_*.py"))
]
sys.path.insert(0, str(DOCS / "pictures"))


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.stem)
def test_a_picture_is_what_its_script_draws(path: Path) -> None:
    """`python docs/pictures/draw_<name>.py` brings it up to date."""
    assert path.read_text(encoding="utf-8") == import_module(f"draw_{path.stem}").picture()


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.stem)
def test_a_picture_has_a_description_and_its_words_lie_on_it(path: Path) -> None:
    root = ElementTree.parse(path).getroot()
    space = {"svg": "http://www.w3.org/2000/svg"}
    assert len(root.findtext("svg:desc", "", space)) > 100
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    words = [(float(each.get("x", 0)), float(each.get("y", 0))) for each in root.findall("svg:text", space)]
    assert words and all(0 <= x <= width and 0 <= y <= height for x, y in words)


def test_every_picture_of_a_page_has_words_in_its_place() -> None:
    image = re.compile(r"!\[([^\]]*)\]\((\S+)\)")
    shown = [match for page in DOCS.glob("*.md") for match in image.findall(page.read_text(encoding="utf-8"))]
    assert {Path(target).stem for _, target in shown if target.endswith(".svg")} >= {path.stem for path in PICTURES}
    assert not [target for words, target in shown if len(words) < 10]
