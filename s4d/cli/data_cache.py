"""`s4d data cache`: decoded frames on disk."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import typer

from s4d.cli.data import OnError
from s4d.cli.output import AsJson, print_json, print_lines, relative
from s4d.cli.progress import show_progress
from s4d.errors import DataError, UsageError


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
    stages = _Stages()
    with stages.shown:
        report = write_cache(manifest, out, recipe, options, stages)
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

    with show_progress("shards checked:") as progress:
        damaged = verify_cache(folder, progress)
    if as_json:
        print_json({"cache": relative(folder), "damaged": damaged})
    else:
        print_lines([*damaged, f"{relative(folder)}: {len(damaged)} damaged records"])
    if damaged:
        raise DataError(f"{folder}: {len(damaged)} damaged records; delete this folder and make the cache again")


class _Stages:
    """Progress of one stage after the other, and what the disk will have to hold."""

    VERBS = MappingProxyType({"probe": "opened", "fill": "decoded"})

    def __init__(self) -> None:
        self.stage = ""
        self.shown = ExitStack()

    def __call__(self, stage: str, done: int, total: int, size: int) -> None:
        if stage != self.stage:
            self.shown.close()
            if size:
                typer.echo(f"{total} media, {_amount(size)} of decoded frames", err=True)
            self.stage, self.show = stage, self.shown.enter_context(show_progress(self.VERBS[stage]))
        self.show(done, total)


def _amount(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
