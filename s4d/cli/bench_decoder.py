"""`s4d bench decoder`: what the decoder's options save in a pre-training step, and what they cost in quality.

Speed: steps of ViT-B with every decoder, in turns in one process. Quality: the demonstration's model pre-trained on
generated faces by `engine/train.py`, for as many steps and with the same seeds under every decoder, then judged on
people it has not seen (`s4d.analysis.decoder_trade.quality`). Every finished part is kept in the work folder: a second
call goes on from there.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s4d.cli.bench import Device, chosen_device
from s4d.errors import DataError
from s4d.shipped_configs import REHEARSAL_MODEL, SHIPPED

if TYPE_CHECKING:
    import torch

    from s4d.analysis.decoder_trade.arms import Arm, Row

WORK = Path("runs") / "bench-decoder"
PRETRAIN, FINETUNE = (SHIPPED / task / "demo.yaml" for task in ("pretrain", "finetune"))
# A probe needs no second window of a clip.
PROBED = ("evaluation.temporal_views=1", "evaluation.frame_baseline=false")
LIMIT_SECONDS = 3600.0
BEGIN = "<!-- written by `s4d bench decoder --docs`: begin -->"
END = "<!-- written by `s4d bench decoder --docs`: end -->"
TINY = (
    *REHEARSAL_MODEL,
    "data.workers=0",
    "batch.per_step.affectnet=4",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Amount:
    """What is generated and trained; results of another amount are never mixed with these."""

    steps: int
    clips: int = 900
    images: int = 2100
    identities: int = 120
    overrides: tuple[str, ...] = ()


def decoder(
    *,
    device: Device = None,
    steps: Annotated[int, typer.Option(min=1, help="Pre-training steps of each run.")] = 600,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each decoder.")] = 3,
    repeats: Annotated[int, typer.Option(min=1, help="Timed steps of each decoder.")] = 7,
    minutes: Annotated[
        float | None,
        typer.Option(min=0, help="Begin nothing new after this; call again for the rest.", show_default=False),
    ] = None,
    work: Annotated[Path, typer.Option(help="Where data and finished parts are kept.")] = WORK,
    json: Annotated[
        Path | None,
        typer.Option("--json", help="Results; left out: below benchmarks/results.", show_default=False),
    ] = None,
    docs: Annotated[
        bool, typer.Option("--docs", help="Only bring the table of docs/throughput.md up to date with the results.")
    ] = False,
    tiny: Annotated[bool, typer.Option(help="Rehearse on almost nothing.", hidden=True)] = False,
) -> None:
    """Time and judge pre-training with each decoder; exit 1 while parts are missing."""
    from s4d.cli.bench_files import results_folder, write_document

    if docs:
        write_docs(Path.cwd())
        return
    target = chosen_device(device)
    little = {"clips": 35, "images": 70, "identities": 5, "overrides": TINY}
    trade = Trade(target, Amount(steps=steps, **(little if tiny else {})), work, tiny=tiny)  # type: ignore[arg-type]
    # A rehearsal must not replace a measurement.
    file = json or (work if tiny else results_folder(target)) / "decoder.json"
    end = None if minutes is None else time.monotonic() + 60 * minutes
    parts = trade.parts(seeds, repeats)
    found: dict[str, Any] = {}
    for name, measure in parts.items():
        if end is None or time.monotonic() < end or trade.is_done(name):
            found[name] = trade.result(name, measure)
            write_document(file, build_document(target, trade.amount, seeds, found, len(parts)))
    _show(file, found, len(parts))
    if len(found) < len(parts):
        raise typer.Exit(1)


class Trade:
    """The parts of the comparison, each measured once and kept in a file of its own."""

    def __init__(self, device: torch.device, amount: Amount, work: Path, *, tiny: bool) -> None:
        self.device, self.amount, self.work, self.tiny = device, amount, work.resolve(), tiny

    def parts(self, seeds: int, repeats: int) -> dict[str, Callable[[], Any]]:
        """What there is to measure by name, in order: one seed of all decoders before the next."""
        from s4d.analysis.decoder_trade.arms import ARMS, UNTRAINED

        found: dict[str, Callable[[], Any]] = {f"speed-{repeats}": partial(self._speed, repeats)}
        for seed in range(seeds):
            for arm in ARMS:
                found[f"{arm.name.replace(', ', '-')}-{seed}"] = partial(self._quality, arm, seed)
            found[f"{UNTRAINED}-{seed}"] = partial(self._untrained, seed)
        return found

    def is_done(self, name: str) -> bool:
        """Whether a part of this amount is there."""
        return self._kept(name) is not None

    def result(self, name: str, measure: Callable[[], Any]) -> Any:
        """A part's result, measured unless it is there."""
        from s4d.cli.bench_files import write_document

        kept = self._kept(name)
        if kept is not None:
            return kept
        start = time.monotonic()
        result = measure()
        sys.stderr.write(f"decoder {name}: {time.monotonic() - start:.1f} s\n")
        write_document(self._file(name), {"settings": self._settings(), "result": result})
        return result

    def _file(self, name: str) -> Path:
        return self.work / "parts" / f"{name}.json"

    def _settings(self) -> dict[str, Any]:
        amount: dict[str, Any] = json.loads(json.dumps(asdict(self.amount)))
        return {**amount, "device": self.device.type}

    def _kept(self, name: str) -> Any:
        path = self._file(name)
        if not path.exists():
            return None
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            return document["result"] if document["settings"] == self._settings() else None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: no part of `s4d bench decoder`: {error!r}") from error

    def _speed(self, repeats: int) -> list[Row]:
        from s4d.analysis.decoder_trade.speed import time_steps
        from s4d.cli.bench_step_memory import peak_memory

        return time_steps(self.device, repeats, peak_memory, tiny=self.tiny)

    def _quality(self, arm: Arm, seed: int) -> Row:
        data = self._data()
        run_dir = self.work / "pretrain" / f"{arm.name.replace(', ', '-')}-{seed}"
        start = time.monotonic()
        self._train(run_dir, [*self._pretraining(data), *arm.overrides, f"seed={seed}"])
        seconds = time.monotonic() - start
        row = {**self._judged(data, run_dir, seed), "arm": arm.name, "train_seconds": seconds}
        shutil.rmtree(run_dir)
        return row

    def _untrained(self, seed: int) -> Row:
        from s4d.analysis.decoder_trade.arms import UNTRAINED

        return {**self._judged(self._data(), None, seed), "arm": UNTRAINED}

    def _judged(self, data: Path, run_dir: Path | None, seed: int) -> Row:
        from s4d.analysis.decoder_trade.quality import figures
        from s4d.config import load

        # Held-out clips are those of the labelled set: its test people are in no pre-training clip.
        unseen = _manifests(data, affectnet=0, dfew=1)
        pretrain = load(PRETRAIN, [*self._sized(), *unseen, "run_dir=none", *PROBED[:1]])
        finetune = load(FINETUNE, [*self._sized(), *unseen, "run_dir=none", "model.init_from=null", *PROBED])
        return {"seed": seed, "figures": dict(figures(pretrain, finetune, run_dir, seed, self.device))}

    def _sized(self) -> list[str]:
        return [word for word in self.amount.overrides if not word.startswith("batch.")]

    def _pretraining(self, data: Path) -> list[str]:
        steps = self.amount.steps
        return [
            *self.amount.overrides,
            *_manifests(data, affectnet=0, voxceleb2=1),
            f"engine.steps={steps}",
            f"engine.save_every={steps}",
        ]

    def _train(self, run_dir: Path, overrides: Sequence[str]) -> None:
        from s4d.cli.training_process import train_run

        train_run(PRETRAIN, overrides, run_dir, on_gpu=self.device.type == "cuda", limit=LIMIT_SECONDS)

    def _data(self) -> Path:
        """The folder of the generated faces and their manifests, made once."""
        from s4d.synth.labelled_sets import make_sets

        amount = self.amount
        folder = self.work / f"faces-{amount.clips}-{amount.images}-{amount.identities}"
        make_sets(folder, clips=amount.clips, images=amount.images, identities=amount.identities)
        return folder


def _manifests(data: Path, **sources: int) -> list[str]:
    """Overrides that give sources, by their place, the generated sets."""
    return [
        f"data.sources.{index}.manifest={json.dumps(os.fspath(data / f'{name}.parquet'))}"
        for name, index in sources.items()
    ]


def build_document(
    device: torch.device, amount: Amount, seeds: int, found: Mapping[str, Any], parts: int
) -> dict[str, Any]:
    """The document of the parts so far: the rows of the speed, the figures of every run, and the summary of both."""
    from kernels.bench.machine import machine_facts, source_commit
    from s4d.analysis.decoder_trade.arms import ARMS, summarise
    from s4d.cli.bench_files import SCHEMA

    speed: list[Row] = next((result for name, result in found.items() if name.startswith("speed-")), [])
    quality = [result for name, result in found.items() if not name.startswith("speed-")]
    return {
        "schema": SCHEMA,
        "kind": "measurement",
        "what": "decoder",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": source_commit(),
        "machine": machine_facts(device),
        "options": {**asdict(amount), "overrides": list(amount.overrides), "seeds": seeds},
        "arms": [asdict(arm) for arm in ARMS],
        "complete": len(found) == parts,
        "speed": speed,
        "quality": quality,
        "summary": summarise(speed, quality),
    }


def _show(file: Path, found: Mapping[str, Any], parts: int) -> None:
    from s4d.analysis.decoder_trade.arms import COLUMNS, table
    from s4d.cli.output import print_lines, print_table, relative

    summary = json.loads(file.read_text(encoding="utf-8"))["summary"] if found else []
    print_table(COLUMNS, table(summary))
    missing = f"; {parts - len(found)} of {parts} parts are missing, call again" if len(found) < parts else ""
    print_lines([f"results: {relative(file)}{missing}"])


def docs_lines(documents: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table of the documentation from the results of all devices."""
    from s4d.analysis.decoder_trade.arms import COLUMNS, table

    if not documents:
        return ["No result is committed yet."]
    lines = []
    for document in documents:
        options = document["options"]
        lines += [
            f"{document['machine']['device_name']}, {options['seeds']} seeds of {options['steps']} steps:",
            "",
            f"| {' | '.join(COLUMNS)} |",
            f"|{'---|' * len(COLUMNS)}",
            *(f"| {' | '.join(cells)} |" for cells in table(document["summary"])),
            "",
        ]
    return lines[:-1]


def write_docs(root: Path) -> None:
    """Bring docs/throughput.md of a source tree up to date with the complete results in it."""
    from s4d.atomic_files import write_atomically
    from s4d.cli.written_section import with_section

    documents = []
    for path in sorted((root / "benchmarks" / "results").glob("*/decoder.json")):
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            documents += [document] if document["complete"] else []
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: no results of `s4d bench decoder`: {error!r}") from error
    target = root / "docs" / "throughput.md"
    text = with_section(target.read_text(encoding="utf-8"), os.fspath(target), (BEGIN, END), docs_lines(documents))
    write_atomically(target, text)
