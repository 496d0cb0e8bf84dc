"""Tables of the commands: numbers to the right and whole, text wrapped between words, too many columns in parts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

GAP = 2
# Names and paths up to this length stay whole where the table fits; longer ones are broken before columns are moved.
LONGEST_WORD = 24
# A number with its unit or interval, or what stands for one.
_ONE = r"[-+]?\d[\d.,]*(e[-+]?\d+)?"
NUMBER = re.compile(rf"{_ONE}(-{_ONE})?( ?[%a-zA-Z/]{{1,6}})?( (\[|to|±|\+-?) ?{_ONE}.*)?|-|none|no \w+|")


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A name with the cells below it."""

    name: str
    cells: tuple[str, ...]

    @property
    def is_numeric(self) -> bool:
        """True if every cell is a number or says that there is none."""
        return any(re.match(r"[-+]?\d", cell) for cell in self.cells) and all(map(NUMBER.fullmatch, self.cells))

    @property
    def most(self) -> int:
        """Width in which nothing wraps."""
        return max(1, *map(len, (self.name, *self.cells)))

    def least(self, longest: int) -> int:
        """Width in which no number and no word of up to `longest` letters is broken."""
        if self.is_numeric:
            return max(map(len, (*self.name.split(), *self.cells)))
        words = (word for text in (self.name, *self.cells) for word in text.split())
        return max(1, min(longest, max(map(len, words), default=1)))


def render_table(names: Sequence[str], rows: Sequence[Sequence[str]], *, width: int, keys: int = 1) -> Iterator[str]:
    """Lines of at most `width` columns, an empty one behind each part; each part begins with the first `keys`."""
    cells = zip(*rows, strict=True) if rows else ((),) * len(names)
    columns = [Column(name=name, cells=tuple(below)) for name, below in zip(names, cells, strict=True)]
    # Names in front stay whole longest.
    for longest in ((width, width), (width, LONGEST_WORD), (LONGEST_WORD, LONGEST_WORD)):
        least = [column.least(longest[place >= keys]) for place, column in enumerate(columns)]
        if _total(least) <= width:
            break
    for part in _parts(least, width, keys):
        chosen = [columns[place] for place in part]
        yield from _render(chosen, _widths([least[place] for place in part], chosen, width))
        yield ""


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def _parts(least: Sequence[int], width: int, keys: int) -> Iterator[list[int]]:
    """Places of the columns of each part."""
    first = list(range(min(keys, len(least))))
    part = list(first)
    for place in range(len(first), len(least)):
        if len(part) > len(first) and _total([least[each] for each in [*part, place]]) > width:
            yield part
            part = list(first)
        part.append(place)
    yield part


def _widths(least: Sequence[int], columns: Sequence[Column], width: int) -> list[int]:
    """What each column needs, and of what is left a share by what it would like to have."""
    spare = width - _total(least)
    lacks = [column.most - need for need, column in zip(least, columns, strict=True)]
    if spare >= sum(lacks):
        return [column.most for column in columns]
    return [max(1, need + spare * lack // sum(lacks)) for need, lack in zip(least, lacks, strict=True)]


def _render(columns: Sequence[Column], widths: Sequence[int]) -> list[str]:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))
    for column, width in zip(columns, widths, strict=True):
        justify = "right" if column.is_numeric else "left"
        table.add_column(Text(column.name), width=width, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*map(Text, row))
    console = Console(markup=False, highlight=False, width=_total(widths))
    with console.capture() as capture:
        console.print(table)
    return [line.rstrip() for line in capture.get().splitlines()]
