"""Write a whole generated data set, in parallel and reproducibly."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from s4d.errors import UsageError
from s4d.synth import affectnet, dfew, voxceleb2
from s4d.synth.contact_sheet import write_contact_sheet
from s4d.synth.recipe import Plan

WRITERS: dict[str, Callable[[Path, Plan, int], int]] = {
    "image": affectnet.write_image,
    "clip": dfew.write_clip,
    "pretrain": voxceleb2.write_clip,
}
Job = tuple[str, int, Plan, Path]


@dataclass(frozen=True, kw_only=True, slots=True)
class SynthReport:
    """What was written: sample counts, frames drawn in all, and the contact sheet."""

    out: Path
    images: int
    clips: int
    pretrain_clips: int
    frames: int
    contact_sheet: Path


def _write(job: Job) -> int:
    kind, index, plan, root = job
    return WRITERS[kind](root, plan, index)


def _jobs(plan: Plan, root: Path) -> list[Job]:
    counts = {"pretrain": plan.pretrain_clips, "clip": plan.clips, "image": plan.images}
    return [(kind, index, plan, root) for kind, count in counts.items() for index in range(count)]


def _run(jobs: list[Job], workers: int) -> Iterator[int]:
    if workers <= 1:
        yield from map(_write, jobs)
        return
    # Spawned, not forked: the caller may hold threads (torch, a progress bar) that a fork would copy locked.
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap_unordered(_write, jobs, chunksize=4)


def synthesize(
    out: Path,
    *,
    clips: int,
    images: int,
    identities: int,
    seed: int,
    size: int = 112,
    workers: int = 0,
    pretrain_clips: int | None = None,
) -> SynthReport:
    """Render the three data sets below `out` (which must not hold any of them yet) and a contact sheet.

    `workers` processes draw in parallel (0: one per core); the files do not depend on it. `pretrain_clips` is half
    of `clips` if not given. Raises UsageError for sizes that cannot be drawn and for an occupied folder.
    """
    try:
        plan = Plan(
            clips=clips,
            images=images,
            identities=identities,
            pretrain_clips=clips // 3 if pretrain_clips is None else pretrain_clips,
            seed=seed,
            size=size,
        )
    except ValueError as error:
        raise UsageError(f"data synth: {error}") from None
    for name in (affectnet.FOLDER, dfew.FOLDER, voxceleb2.FOLDER):
        if (out / name).exists():
            raise UsageError(f"data synth: --out {out} already holds {name}; choose an empty folder")
    out.mkdir(parents=True, exist_ok=True)
    # Drawn aside and moved into place at the end, so that an interrupted run leaves no half data set.
    aside = out / ".synth-unfinished"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    frames = sum(_run(_jobs(plan, aside), workers or os.cpu_count() or 1))
    affectnet.write_lists(aside, plan)
    dfew.write_folds(aside, plan)
    voxceleb2.write_faces(aside, plan)
    write_contact_sheet(aside, plan)
    for entry in sorted(aside.iterdir()):
        entry.replace(out / entry.name)
    aside.rmdir()
    return SynthReport(
        out=out,
        images=plan.images,
        clips=plan.clips,
        pretrain_clips=plan.pretrain_clips,
        frames=frames,
        contact_sheet=out / "contact_sheet.png",
    )
