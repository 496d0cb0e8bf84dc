"""Pages can be read by everybody: structure, texts for pictures, contrast; on a phone, in the dark, on paper."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from s4d.analysis.cells import contrast, ink_on, shades
from s4d.analysis.html_page import render_page
from s4d.analysis.picture import INKS, SERIES

sys.path.append(str(Path(__file__).resolve().parent))
from headless_browser import Browser, find_browser
from pages import Page, write_pages

NAMES = ("report", "data", "correlation", "profile")
TEXT_COLOURS = ("ink", "muted", "accent", "good", "bad")
AA, GRAPHICS = 4.5, 3.0


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, demo_report: tuple[Path, dict]) -> dict[str, Path]:
    return {"report": demo_report[0], **write_pages(tmp_path_factory.mktemp("pages"))}


@pytest.fixture(scope="module", params=NAMES)
def page(request: pytest.FixtureRequest, pages: dict[str, Path]) -> Page:
    return Page(pages[request.param].read_text(encoding="utf-8"))


def test_language_title_and_viewport(page: Page) -> None:
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("title")) == len(page.all("h1")) == len(page.all("main")) == 1
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")


def test_headings_go_down_one_level_at_a_time(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and len(levels) > 1
    assert all(deeper - level <= 1 for level, deeper in pairwise(levels))


def test_every_picture_is_told_in_words(page: Page) -> None:
    images = page.all("img")
    assert images and all(len(str(image["alt"])) > 20 for image in images)
    assert len({image["alt"] for image in images}) > len(images) / 2, "texts that tell pictures apart"
    assert len(page.all("figcaption")) == len(page.all("figure"))


def test_tables_have_heads_and_scroll_by_keyboard(page: Page) -> None:
    tables = len(page.all("table"))
    assert all(head.get("scope") in ("col", "row") for head in page.all("th"))
    assert {head["scope"] for head in page.all("th")} == {"col", "row"}
    regions = [attributes for attributes in page.all("div") if attributes.get("role") == "region"]
    assert len(regions) == tables and all(region["tabindex"] == "0" and region["aria-label"] for region in regions)


def test_nothing_is_fetched(page: Page) -> None:
    assert not page.all("script", "link", "iframe", "object")
    for value in [*page.values("src"), *page.values("srcset")]:
        assert value.startswith("data:image/")
    assert "url(" not in page.style and "@import" not in page.style


def test_links_lead_somewhere_and_places_have_one_name(page: Page) -> None:
    places = page.values("id")
    assert len(set(places)) == len(places) and not [place for place in places if re.search(r"\s", place)]
    assert set(page.values("aria-labelledby")) <= set(places)
    assert set(page.values("href")) <= {f"#{place}" for place in places}


def palettes() -> dict[str, dict[str, str]]:
    """Colours of the style sheet by name, of the light and of the dark scheme."""
    style = Page(render_page("base.html.j2", title="")).style
    blocks = re.findall(r":root \{(.*?)\}", style)
    return {
        scheme: dict(re.findall(r"--(\w+): (#\w{6})", block))
        for scheme, block in zip(("light", "dark"), blocks, strict=True)
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("ground", ["paper", "ground"])
@pytest.mark.parametrize("name", TEXT_COLOURS)
def test_text_stands_out(scheme: str, ground: str, name: str) -> None:
    palette = palettes()[scheme]
    assert contrast(to_rgb(palette[name]), to_rgb(palette[ground])) >= AA


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_figures_have_the_colours_of_the_page_and_stand_out(scheme: str) -> None:
    palette = palettes()[scheme]
    ink, muted, line, paper = INKS[scheme]
    assert (ink, muted, line, paper) == tuple(palette[name] for name in ("ink", "muted", "line", "paper"))
    assert all(contrast(to_rgb(colour), to_rgb(paper)) >= AA for colour in (ink, muted))
    assert all(contrast(to_rgb(colour), to_rgb(paper)) >= GRAPHICS for colour in SERIES)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", [None, "RdBu_r", "viridis"])
def test_numbers_in_cells_stand_out(scheme: str, name: str | None) -> None:
    with matplotlib.rc_context({"axes.facecolor": INKS[scheme][3]}):
        colours = shades() if name is None else matplotlib.colormaps[name]
        cells = [colours(float(value))[:3] for value in np.linspace(0, 1, 101)]
        assert min(contrast(to_rgb(ink_on(cell)), cell) for cell in cells) >= AA
        assert name or cells[0] == pytest.approx(to_rgb(INKS[scheme][3])), "nothing looks like the ground"


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast((0, 0, 0), (1, 1, 1)) == pytest.approx(21)
    assert contrast(to_rgb("#777777"), (1, 1, 1)) == pytest.approx(4.48, abs=0.005)


BROWSER = find_browser()
deep = pytest.mark.deep
in_a_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine: apt-get install chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert BROWSER is not None
    with Browser(BROWSER) as started:
        yield started


@deep
@in_a_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", NAMES)
def test_in_a_browser(browser: Browser, pages: dict[str, Path], name: str, width: int, scheme: str) -> None:
    browser.open(pages[name], width=width, scheme=scheme)
    root = "document.documentElement"
    assert browser.evaluate("innerWidth") == width
    assert browser.evaluate(f"{root}.scrollWidth - {root}.clientWidth") == 0, "the page scrolls to the side"
    drawn = browser.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert drawn and all(address.startswith(("file:", "data:")) for address in browser.requests)
    outside = "[...document.querySelectorAll('img, p, h1, h2, h3, figcaption, .tile')].filter(part =>"
    outside += " !part.closest('.drawn, .table') && part.getBoundingClientRect().right > innerWidth).length"
    assert browser.evaluate(outside) == 0
    small = browser.evaluate("Math.min(...[...document.images].map(image => image.clientWidth / image.naturalWidth))")
    assert small > 0.4, "a picture whose words are too small to read"
    with Image.open(io.BytesIO(browser.picture(whole=False))) as picture:
        light = float(np.asarray(picture.convert("L")).mean())
    assert light > 180 if scheme == "light" else light < 75


@deep
@in_a_browser
@pytest.mark.parametrize("name", NAMES)
def test_on_paper_it_is_black_on_white_and_whole(browser: Browser, pages: dict[str, Path], name: str) -> None:
    browser.open(pages[name], scheme="dark")
    browser.print_media()
    dark = "[...document.querySelectorAll('source')].filter(source => matchMedia(source.media).matches).length"
    assert browser.evaluate(dark) == 0, "a picture for dark screens"
    colours = browser.evaluate(
        "[document.body, document.querySelector('h1')].map(part => getComputedStyle(part).color)"
    )
    assert colours == ["rgb(28, 36, 48)"] * 2
    cut = (
        "[...document.querySelectorAll('.drawn, .table')].filter(part => getComputedStyle(part).overflowX != 'visible')"
    )
    assert browser.evaluate(f"{cut}.length") == 0
    assert browser.pdf().startswith(b"%PDF-")


@deep
@in_a_browser
def test_the_keyboard_reaches_links_and_tables(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["report"], width=390)
    parts = "[...document.querySelectorAll('a, summary, .table')]"
    assert browser.evaluate(f"{parts}.every(part => {{part.focus(); return document.activeElement == part}})")
    assert browser.evaluate("[...document.styleSheets[0].cssRules].some(rule => rule.selectorText == ':focus-visible')")
