"""R11: what is read, and what is drawn for it, depends on the seed alone.

Each case makes up sources and a configuration, lists the views of some steps as one process would see them, and again
as ranks, micro steps, decoding processes, a kill and a change of the number of ranks divide them. Everything is real
but the files: a medium is a number of frames and a size. Every `FULL`th case reads a few real files instead, through
decoding processes.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1] / "engine"))

from batch_records import Record, packed_records, pixel_records
from engine_project import run_values, write_media

from s4d.config import Config
from s4d.data.batch import PackedBatch
from s4d.data.counter import generator
from s4d.data.loader import TrainBatches, build_batches
from s4d.data.micro_batches import MicroBatches
from s4d.data.plan import build_plan
from s4d.data.reading import TrainReader
from s4d.data.sources import Source
from s4d.errors import DataError

WORLDS = (1, 2, 3, 4, 6, 8)
WORKERS = (0, 1, 2, 3, 4)
STEPS = 5
FULL = 100
# Views of a source in a step, over all divisions of it that a case compares.
MOST_VIEWS = 48

# Records of each step, by source in the order of the plan.
Steps = list[list[list[Record]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Steps from `start` up to `end`, done by so many ranks in so many micro steps."""

    start: int
    end: int
    world_size: int
    accumulation: int


@dataclass(frozen=True, slots=True)
class NoMedia:
    """A medium that has everything but pixels."""

    frame_count: int
    size: tuple[int, int]


def prepare(folder: Path) -> None:
    """Media for the cases that read some, and a folder for made-up manifests."""
    write_media(folder)


def run(number: int, folder: Path) -> str:
    """Outcome: what the case was about."""
    rng = generator(number, "case of the order")
    if number % FULL == FULL - 1:
        return _run_with_processes(rng, folder)
    parts = _parts(rng)
    config = _config(rng, folder, parts)
    whole = list(_listed(config, [Part(start=0, end=STEPS, world_size=1, accumulation=1)]))
    divided = list(_listed(config, parts))
    _assert_equal(whole, divided, parts)
    _assert_complete(config, whole)
    return f"{config.task}, {config.batch.batching}"


def _parts(rng: np.random.Generator) -> list[Part]:
    """One kill, after which the number of ranks and micro steps may be another."""
    kill = int(rng.integers(1, STEPS))
    divisions = [(int(rng.choice(WORLDS)), int(rng.choice([1, 1, 2, 3]))) for _ in range(2)]
    if np.lcm(*(2 * world * micro for world, micro in divisions)) > MOST_VIEWS:
        # Too many views a step to be divided by both: the run goes on as it was.
        divisions[1] = divisions[0] if rng.random() < 0.3 else (1, divisions[0][1])
    (world, micro), (later_world, later_micro) = divisions
    return [
        Part(start=0, end=kill, world_size=world, accumulation=micro),
        Part(start=kill, end=STEPS, world_size=later_world, accumulation=later_micro),
    ]


def _config(rng: np.random.Generator, folder: Path, parts: list[Part]) -> Config:
    """A run over made-up sources whose quotas divide in all the ways that the parts ask for."""
    task = str(rng.choice(["pretrain", "finetune"]))
    values = run_values(folder, folder / "run", task)
    mixed = task == "finetune" and rng.random() < 0.5
    unit = int(np.lcm.reduce([part.world_size * part.accumulation for part in parts])) * (2 if mixed else 1)
    sources, per_step = [], {}
    for index in range(int(rng.integers(1, 4))):
        name, views = f"s{index}", 1 if mixed else int(rng.integers(1, 4))
        sampling = str(rng.choice(["natural", "balanced", "sqrt"])) if task == "finetune" else "natural"
        modality = ("image", "video")[int(rng.integers(2))]
        kind = {"image": "image", "video": "video"}[modality]
        manifest = _manifest(rng, folder, name, kind)
        sources.append(
            {"name": name, "modality": modality, "manifest": manifest, "views": views, "sampling": sampling}
            | {"stride": int(rng.integers(1, 5)), "rate": float(rng.choice([0.5, 1.0, 1.7]))}
        )
        per_step[name] = int(np.lcm(unit, views)) * int(rng.integers(1, 3))
    augment = {"crop": "random_resized", "color_jitter": 0.4, "randaug_ops": 2, "erase": 0.3, "interpolation": "random"}
    values["model"] |= {"image_size": 16, "num_frames": 2}
    values["data"] |= {"sources": sources, "image": augment, "video": augment, "on_error": "skip"}
    values["data"]["frame_sampling"] = str(rng.choice(["window", "release"]))
    if mixed:
        scope = str(rng.choice(["pair", "batch"]))
        values["data"]["mix"] = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "label_smoothing": 0.1, "scope": scope}
    values["batch"] = {"per_step": per_step, "batching": str(rng.choice(["packed", "alternate"]))}
    values["engine"] |= {"steps": STEPS, "save_every": None}
    values["seed"] = int(rng.integers(1000))
    values["task"] = task
    return _checked(values)


def _checked(values: dict[str, Any]) -> Config:
    return Config.model_validate_json(json.dumps(values), strict=True)


def _manifest(rng: np.random.Generator, folder: Path, name: str, kind: str) -> str:
    path = folder / f"{name}.csv"
    labels = [f"c{int(label)}" for label in rng.integers(0, 3, int(rng.integers(6, 40)))]
    labels[:3] = ["c0", "c1", "c2"]
    lines = [f"{name}/{place:03d},{label},train,{kind}" for place, label in enumerate(labels)]
    path.write_text("path,label,split,kind\n" + "\n".join(lines) + "\n")
    return str(path)


def _listed(config: Config, parts: list[Part]) -> Iterator[list[list[Record]]]:
    """Records of every step, as the ranks of each part see them, in the order of the whole step."""
    for part in parts:
        batch = config.batch.model_copy(update={"accumulation": part.accumulation})
        divided = _checked(config.model_copy(update={"batch": batch}).model_dump(mode="json"))
        # As after a start: nothing is left of the part before.
        plan = build_plan(divided, world_size=part.world_size)
        ranks = [_Reading(divided, plan, rank) for rank in range(part.world_size)]
        for step in range(part.start, part.end):
            records: list[list[Record]] = [[] for _ in plan.sources]
            for micro in range(part.accumulation):
                for rank in ranks:
                    for source, found in enumerate(rank.records(step * part.accumulation + micro)):
                        records[source] += found
            yield records


class _Reading:
    """The micro batches of a rank without pixels, and what was drawn for them."""

    def __init__(self, config: Config, plan: Any, rank: int) -> None:
        self._batches = MicroBatches(config, plan, rank)
        self._batches.reader = TrainReader(config, plan, self._read)
        self._seen: dict[str, list[Record]] = {}

    def _read(self, source: Source, row: int, order: str, out: Any, *, draw: Any) -> Any:
        rng = generator(source.rows[row].sample_id, "medium")
        if rng.random() < 0.05:
            raise DataError(f"{source.rows[row].path}: damaged")
        frames = 1 if source.config.modality == "image" else int(rng.integers(1, 40))
        drawn = draw(NoMedia(frames, (int(rng.integers(16, 80)), int(rng.integers(16, 80)))))
        self._seen.setdefault(source.config.name, []).extend((source.rows[row].sample_id, each) for each in drawn)
        return drawn

    def records(self, index: int) -> list[list[Record]]:
        self._seen = {}
        layout = self._batches.layout
        planned = layout.planned(index)
        if not any(planned):
            return [[] for _ in planned]
        batch, _ = self._batches[index]
        packed = iter(packed_records(batch))
        return [
            [
                (view.epoch, view.position, view.view, view.row, *seen, next(packed))
                for view, seen in zip(views, self._seen.get(source.config.name, []), strict=True)
            ]
            for source, views in zip(layout.plan.sources, planned, strict=True)
        ]


def _assert_equal(whole: Steps, divided: Steps, parts: list[Part]) -> None:
    assert len(whole) == len(divided) == STEPS
    for step, (expected, found) in enumerate(zip(whole, divided, strict=True)):
        for source, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
            assert ours == theirs, f"step {step}, source {source} differ under {parts}"


def _assert_complete(config: Config, whole: Steps) -> None:
    """Within an epoch of a source no sample is left out, added or drawn twice; views follow one another."""
    for index, source in enumerate(build_plan(config, world_size=1).sources):
        views = [record[:4] for step in whole for record in step[index]]
        places = [(epoch, position) for epoch, position, _, _ in views]
        wanted = [
            (epoch, position)
            for epoch in range(places[-1][0] + 1 if places else 0)
            for position in range(len(source.rows))
            for _ in range(source.config.views)
        ]
        assert places == wanted[: len(places)], f"source {index} leaves the order of its epochs"
        assert len(set(views)) == len(views), f"source {index} repeats a view"
        for epoch in {place[0] for place in places} if source.config.sampling == "natural" else ():
            rows = Counter(row for at, _, _, row in views if at == epoch)
            assert max(rows.values()) <= source.config.views, f"source {index} repeats a sample in epoch {epoch}"
            if places.count((epoch, len(source.rows) - 1)) == source.config.views:
                assert set(rows.values()) == {source.config.views} and len(rows) == len(source.rows)


def _run_with_processes(rng: np.random.Generator, folder: Path) -> str:
    """Real files through decoding processes: pixels and all are what one process reads."""
    workers, micro, world = int(rng.choice(WORKERS)), int(rng.choice([1, 2])), int(rng.choice([1, 2]))
    start, task = int(rng.integers(0, 3)), str(rng.choice(["pretrain", "finetune"]))
    found: list[list[Record]] = [[], []]
    config = _real_config(folder, task, workers, micro)
    for rank in range(world):
        batches = build_batches(config, rank, world)
        for step, read in enumerate(_steps(batches, start)):
            for place, batch in enumerate(read):
                found[step] += [(place, rank, *record) for record in pixel_records(batch)]
    for step, expected in enumerate(_expected(folder, task, start)):
        ours = [record[2:] for record in sorted(found[step], key=lambda record: record[:2])]
        # Of each modality, in the order of the step: a micro batch holds the images of its rank, then its clips.
        ours.sort(key=lambda record: record[0])
        assert ours == expected, f"step {start + step}: {workers} workers, {world} ranks, {micro} micro steps"
    return f"{workers} workers"


def _steps(batches: TrainBatches, start: int) -> Iterator[list[PackedBatch]]:
    steps = batches.steps(start)
    yield from (next(steps) for _ in range(2))
    batches.close()


@cache
def _expected(folder: Path, task: str, start: int) -> list[list[Record]]:
    batches = build_batches(_real_config(folder, task, 0, 1), 0, 1)
    return [[record for batch in read for record in pixel_records(batch)] for read in _steps(batches, start)]


def _real_config(folder: Path, task: str, workers: int, accumulation: int) -> Config:
    values = run_values(folder, folder / "run", task)
    values["data"] |= {"workers": workers}
    values["batch"] |= {"accumulation": accumulation}
    values["engine"] |= {"steps": STEPS}
    return _checked(values)
