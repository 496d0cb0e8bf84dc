"""`s4d data cache`: decoded frames on disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from s4d.cli.data import OnError
from s4d.cli.output import AsJson, print_json, print_lines, relative
from s4d.errors import DataError, UsageError

SECONDS_BETWEEN_LINES = 10.0


class Order(StrEnum):
    """Order of frame files in a folder."""

    natural = "natural"
    lexicographic = "lexicographic"


def cache(
    manifest: Annotated[Path | None, typer.Argument(help="Manifest to decode.", show_default=False)] = None,
    *,
    out: Annotated[Path | None, typer.Option(help="Folder of the cache.", show_default=False)] = None,
    short_side: Annotated[int, typer.Option(min=1, help="Scale frames down to this short side, never up.")] = 192,
    frames: Annotated[
        str, typer.Option(help="all, or 16x4: of clips long enough for 16 frames at stride 4 every 4th.")
    ] = "all",
    order: Annotated[Order, typer.Option(help="Order of frame files, as data.order.")] = Order.natural,
    workers: Annotated[int, typer.Option(min=0, help="Decoding processes; 0: this one.")] = 2,
    shard_mib: Annotated[
        int, typer.Option(min=1, help="Size of a shard file in MiB; a longer clip gets its own.")
    ] = 1024,
    on_error: Annotated[OnError, typer.Option(help="Unreadable media: stop, or leave them out.")] = OnError.error,
    verify: Annotated[
        Path | None, typer.Option(help="Check every byte of this cache instead of making one.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Decode every frame of a manifest once into files that training maps; call again to continue.

    A source with `cache: FOLDER` reads them.
    """
    if verify is not None:
        if manifest is not None or out is not None:
            raise UsageError("--verify checks a finished cache: give no manifest and no --out with it")
        _verify(verify, as_json)
        return
    if manifest is None or out is None:
        raise UsageError("give a manifest and --out FOLDER, or --verify FOLDER")
    from s4d.data.cache.recipe import CacheRecipe
    from s4d.data.cache.write import CacheOptions, write_cache

    recipe = CacheRecipe(short_side=short_side, frames=frames, order=order.value)
    options = CacheOptions(shard_bytes=shard_mib << 20, workers=workers, skip_unreadable=on_error is OnError.skip)
    with _progress() as show:
        report = write_cache(manifest, out, recipe, options, show)
    for problem in report.left_out:
        typer.echo(f"left out: {problem}", err=True)
    if as_json:
        print_json({"cache": relative(out), "recipe": asdict(recipe), **asdict(report)})
        return
    unreadable = f", {len(report.left_out)} media left out" if report.left_out else ""
    earlier = f" ({report.already_done} media from earlier calls)" if report.already_done else ""
    print_lines(
        [
            f"{relative(out)}: {report.media} media{earlier}, {report.frames} frames in {report.shards} shards of "
            f"{_amount(report.size)} in all{unreadable}"
        ]
    )


def _verify(folder: Path, as_json: bool) -> None:
    from s4d.data.cache.verify import verify_cache

    with _progress() as show:
        damaged = verify_cache(folder, lambda done, total: show("verify", done, total, 0))
    if as_json:
        print_json({"cache": relative(folder), "damaged": damaged})
    else:
        print_lines([*damaged, f"{relative(folder)}: {len(damaged)} damaged records"])
    if damaged:
        raise DataError(f"{folder}: {len(damaged)} damaged records; delete this folder and make the cache again")


STAGES = {"probe": "opening media", "fill": "decoding", "verify": "checking shards"}


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int, int], None]]:
    """A bar on a terminal, a line every few seconds in a log; both on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        tasks: dict[str, int] = {}

        def show(stage: str, done: int, total: int, size: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(_title(stage, size), total=total)
            bar.update(tasks[stage], completed=done)  # type: ignore[arg-type]

        yield show


class _Lines:
    """Progress for a log."""

    def __init__(self) -> None:
        self.next = 0.0

    def __call__(self, stage: str, done: int, total: int, size: int) -> None:
        if done in (0, total) or time.monotonic() >= self.next:
            self.next = time.monotonic() + SECONDS_BETWEEN_LINES
            typer.echo(f"{_title(stage, size)}: {done} of {total}", err=True)


def _title(stage: str, size: int) -> str:
    return f"{STAGES[stage]} ({_amount(size)})" if size else STAGES[stage]


def _amount(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
