"""What the manual's drawings are made of: one style for light and dark, boxes, lines and words.

A drawing brings its own paper: a page whose colours were switched by hand does not tell the pictures in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from xml.sax.saxutils import escape

STYLE = """
  <style>
    .paper { fill: #ffffff; }
    .box { stroke: #475569; stroke-width: 1.5; }
    .data { fill: #e0f2fe; } .model { fill: #fef3c7; } .ops { fill: #fbe0e6; } .run { fill: #dcfce7; }
    .needed { fill: #93c5fd; }
    .band { fill: none; stroke: #94a3b8; stroke-dasharray: 5 4; }
    .name { fill: #0f172a; font-weight: 600; } .note { fill: #334155; font-size: 13px; }
    .line { stroke: #475569; stroke-width: 1.5; fill: none; } .tip { fill: #475569; }
    .thin { stroke: #94a3b8; stroke-width: 1; fill: none; }
    @media (prefers-color-scheme: dark) {
      .paper { fill: #0f172a; }
      .box { stroke: #94a3b8; }
      .data { fill: #0c4a6e; } .model { fill: #713f12; } .ops { fill: #701a3a; } .run { fill: #14532d; }
      .needed { fill: #1d4ed8; }
      .band { stroke: #64748b; }
      .name { fill: #f8fafc; } .note { fill: #e2e8f0; }
      .line { stroke: #94a3b8; } .tip { fill: #94a3b8; } .thin { stroke: #64748b; }
    }
  </style>
  <defs>
    <marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">
      <path class="tip" d="M0 0 L8 4 L0 8 z"/>
    </marker>
  </defs>"""


def document(width: int, height: int, title: str, description: str, parts: Iterable[str]) -> str:
    """A whole picture; `title` and `description` are read aloud."""
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"',
        '     aria-labelledby="title description" font-family="system-ui, sans-serif" font-size="16">',
        f'  <title id="title">{escape(title)}</title>',
        f'  <desc id="description">{escape(description)}</desc>{STYLE}',
        f'  <rect class="paper" width="{width}" height="{height}" rx="8"/>',
        *(f"  {part}" for part in parts),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def text(x: float, y: float, words: str, kind: str = "note", anchor: str = "middle") -> str:
    """Words with their baseline at `y`."""
    return f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(words)}</text>'


def rectangle(x: float, y: float, width: float, height: float, kind: str, rounding: float = 6) -> str:
    """A rectangle whose upper left corner is at (x, y)."""
    return f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{rounding:g}"/>'


def box(x: float, y: float, width: float, height: float, kind: str, name: str, *notes: str) -> list[str]:
    """A box with a name and lines of smaller words below it, centred as a whole."""
    first = y + height / 2 + 6 - 10 * len(notes)
    middle = x + width / 2
    return [
        rectangle(x, y, width, height, f"box {kind}"),
        text(middle, first, name, "name"),
        *(text(middle, first + 20 * number, note) for number, note in enumerate(notes, start=1)),
    ]


def arrow(path: str) -> str:
    """A line along an SVG path with a head at its end."""
    return f'<path class="line" d="{path}" marker-end="url(#head)"/>'
