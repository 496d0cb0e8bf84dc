"""Every admissible tile of the Triton kernels as a peer of its own, to see whether the tables choose the fastest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from kernels.bench.records import Case, Peer, Run

Build = Callable[[Any], Run]
_NO_SLOTS, _ALL_SLOTS = -1, 1 << 62


def attention_tiles(build: Build) -> Callable[[Case], Iterator[Peer]]:
    """Rows of a tile, and the two forms of the streaming backward; ``build`` makes the run of the Triton backend."""

    def peers(case: Case) -> Iterator[Peer]:
        for rows in (64, 128):
            yield _peer(f"triton[rows={rows}]", build, partial(_attention, rows=rows))
        for two_pass in (False, True):
            name = "two passes" if two_pass else "one program"
            yield _peer(f"triton[{name}]", build, partial(_attention, two_pass=two_pass))

    return peers


def moae_tiles(build: Build) -> Callable[[Case], Iterator[Peer]]:
    """The tiles meant for few, some and many slots, each for whatever number there is."""

    def peers(case: Case) -> Iterator[Peer]:
        for name, few, some in (
            ("few", _ALL_SLOTS, _ALL_SLOTS),
            ("some", _NO_SLOTS, _ALL_SLOTS),
            ("many", _NO_SLOTS, _NO_SLOTS),
        ):
            yield _peer(f"triton[{name} slots]", build, partial(_expert_rows, few, some))

    return peers


def _peer(name: str, build: Build, forced: Callable[[], AbstractContextManager[None]]) -> Peer:
    def forced_build(inputs: Any) -> Run:
        return replace(build(inputs), around=forced)

    return Peer(name=name, build=forced_build, rival=False)


def _attention(*, rows: int | None = None, two_pass: bool | None = None) -> AbstractContextManager[None]:
    from kernels.attention.tiles import forced

    return forced(rows=rows, two_pass=two_pass)


@contextmanager
def _expert_rows(few: int, some: int) -> Iterator[None]:
    from kernels.moae import expert_tiles

    before = expert_tiles.FEW_SLOTS, expert_tiles.SOME_SLOTS
    expert_tiles.FEW_SLOTS, expert_tiles.SOME_SLOTS = few, some
    try:
        yield
    finally:
        expert_tiles.FEW_SLOTS, expert_tiles.SOME_SLOTS = before
