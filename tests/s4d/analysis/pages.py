"""One page of each kind that commands write, on made-up numbers, and what is read out of a page."""

from __future__ import annotations

import html.parser
import json
from pathlib import Path

import numpy as np
from PIL import Image

from s4d.analysis.correlation.heat_map import COSINES, SHARES, Grid, heat_maps
from s4d.analysis.correlation.page import TEMPLATE, Part, Table
from s4d.analysis.data_page import Group, render_data_page
from s4d.analysis.html_page import render_page
from s4d.analysis.step_profile.page import profile_page
from s4d.analysis.tile_sheet import draw_sheet

ROOT = Path(__file__).parents[3]
PROFILE = ROOT / "benchmarks/results/cpu-2c-amd-epyc/profile_finetune.json"
CLASSES = ("neutral", "happiness", "a class with a long name")
LONG = "a/folder/with/a/long/name/" * 4 + "clip_00001.mp4"


def write_pages(folder: Path) -> dict[str, Path]:
    """Pages by name, all but the report."""
    pages = {
        "data": data_page(),
        "correlation": correlation_page(),
        "profile": profile_page(json.loads(PROFILE.read_text(encoding="utf-8"))),
    }
    written: dict[str, Path] = {}
    for name, text in pages.items():
        written[name] = folder / f"{name}.html"
        written[name].write_text(text, encoding="utf-8")
    return written


def data_page() -> str:
    tiles = [Image.new("RGB", (90, 120), color) for color in ("#905030", "#306090") * 6]
    return render_data_page(
        title="S4D data: a_name_that_has_no_place_to_break_at_and_is_longer_than_a_phone.parquet",
        tiles=[("rows", "1,234"), ("errors", "2")],
        looked_at="42 of 42 media known from scan.jsonl",
        groups=[Group(severity="error", code="missing", lines=(f"{LONG}: no such file",) * 50)],
        counts={f"split {n}": dict.fromkeys(CLASSES, 1000 * n + 7) for n in range(1, 10)},
        histograms={"sharpness": (np.linspace(1, 9, 50).tolist(), "variance")},
        sheet=draw_sheet([(name, tiles) for name in CLASSES], columns=12),
    )


def correlation_page() -> str:
    values = np.linspace(-1, 1, len(CLASSES) ** 2).reshape(len(CLASSES), -1)
    grid = Grid(values=values, rows=CLASSES, columns=CLASSES, title="cosines", down="images", across="clips")
    shares = Grid(values=abs(values), rows=CLASSES, columns=CLASSES, title="shares", down="true", across="told")
    pictures = (
        heat_maps([grid], COSINES, alt="Heat map of the cosines of three classes.", caption="Cosines."),
        heat_maps([shares] * 3, SHARES, alt="Heat maps of the shares of three classes.", caption="Shares."),
    )
    table = Table(columns=("head", *(f"score {n}" for n in range(12))), rows=(("static", *["0.25 to 0.75"] * 12),))
    part = Part(
        key="transfer", title="Transfer", method="How.", numbers={}, headline={}, tables=(table,), pictures=pictures
    )
    return render_page(
        TEMPLATE, title="SFER and DFER", tiles=[("0.5", "UAR")], notes=["Runs: one."], parts=[part], wide=520
    )


class Page(html.parser.HTMLParser):
    """Tags with their attributes in the order of the page, and the text of its style sheet."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.style = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "style":
            self.style += data

    def all(self, *names: str) -> list[dict[str, str | None]]:
        """Attributes of all tags of these names."""
        return [attributes for tag, attributes in self.tags if tag in names]

    def values(self, name: str) -> list[str]:
        """All values of an attribute."""
        return [str(attributes[name]) for _, attributes in self.tags if name in attributes]
