"""`s4d bench pipeline`: from generated faces to scores as a user would, with a run that is killed in between.

The document: `recipe` (what makes scores comparable), `loader` (which backend decodes, why, and what trials of all
said), `backends` and `rates` of each task, `collectives`, `resume` (where the run was killed and went on, and which
files differ from an undisturbed run's), `scores` (a row a seed), `uar` beside the CPU's, `goals`, `stages`.
"""

from __future__ import annotations

import json as json_text
import re
import shutil
import statistics
import sys
import time
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s4d.cli.bench import Device, chosen_device
from s4d.cli.output import print_lines, print_table, relative
from s4d.errors import DataError, UsageError, UserError

if TYPE_CHECKING:
    import torch

REPORT = "report.json"
# Of a folder that this command made and may replace.
MARK = ".pipeline"
CPU_RESULTS = "benchmarks/results/cpu*/pipeline.json"
CONTINUED = re.compile(r"^continuing from .* \(step (\d+)\)$", re.MULTILINE)


class SizeName(StrEnum):
    """How much is generated and trained."""

    full = "full"
    tiny = "tiny"


def pipeline(
    device: Device = None,
    *,
    size: Annotated[SizeName, typer.Option(help="tiny is for rehearsals.")] = SizeName.full,
    seeds: Annotated[str, typer.Option(help="Seeds of training, separated by commas.")] = "0",
    ranks: Annotated[
        int | None, typer.Option(min=1, help="Processes; left out, one a GPU, or two on a CPU.", show_default=False)
    ] = None,
    undisturbed: Annotated[
        bool, typer.Option(help="Also train without the kill, and compare all bytes of weights and moments.")
    ] = True,
    limit: Annotated[float, typer.Option(min=0, help="Most seconds of all stages together.")] = 3600.0,
    out: Annotated[Path, typer.Option(help="Folder of data, runs, logs and report.json; replaced.")] = Path(
        "runs/pipeline"
    ),
    json: Annotated[
        Path | None,
        typer.Option(help="Where to write the results too; left out: among the committed ones, if complete."),
    ] = None,
) -> None:
    """Generate faces, check them, pre-train, fine-tune, kill, continue and score; exit 1 if a stage fails."""
    from s4d.cli.bench_files import results_folder

    target = chosen_device(device)
    numbers = _seeds(seeds)
    run = _Pipeline(target, size.value, numbers, ranks or _all_ranks(target), _taken(out.resolve()), limit)
    document = run.measure(undisturbed)
    if json is None and size is SizeName.full and document["complete"]:
        json = results_folder(target) / "pipeline.json"
    if json is not None:
        run.write(json)
    _show(document)
    print_lines([f"results: {relative(path)}" for path in (run.report, json) if path is not None])
    if document["failure"]:
        raise DataError(document["failure"])


def _seeds(text: str) -> list[int]:
    numbers = [int(word) for word in text.split(",") if word.strip().isdecimal()]
    if not numbers or len(set(numbers)) < len(text.split(",")):
        raise UsageError(f"--seeds: expected different whole numbers, separated by commas, got {text!r}")
    return numbers


def _all_ranks(device: torch.device) -> int:
    import torch

    return torch.cuda.device_count() if device.type == "cuda" else 2


def _taken(folder: Path) -> Path:
    if folder.exists() and not (folder / MARK).exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"--out: {folder} was not made by this command; name a new folder")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / MARK).touch()
    return folder


class _Pipeline:
    """The stages in order; the document is on the disk after each."""

    def __init__(self, device: torch.device, size: str, seeds: list[int], ranks: int, work: Path, limit: float) -> None:
        from kernels.bench.machine import machine_facts, source_commit
        from s4d.cli.pipeline_stages import SIZES, Layout, Stages, recipe_of

        self.device, self.size, self.seeds, self.ranks = device, SIZES[size], seeds, ranks
        self.layout, self.report = Layout(work=work), work / REPORT
        self.stages = Stages(work, device.type, limit, lambda: self.write(self.report))
        self.begin = time.monotonic()
        self.document: dict[str, Any] = {
            "schema": 1,
            "kind": "measurement",
            "what": "pipeline",
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": source_commit(),
            "machine": machine_facts(device),
            "recipe": recipe_of(size),
            "ranks": ranks,
            "seeds": seeds,
            "complete": False,
            "failure": None,
            "loader": None,
            "collectives": None,
            "backends": {},
            "rates": {},
            "resume": None,
            "scores": [],
            "stages": self.stages.records,
        }

    def write(self, path: Path) -> None:
        """Write what is known so far, judged."""
        from s4d.analysis.pipeline_goals import evaluate, judge_uar
        from s4d.cli.bench_files import write_document
        from s4d.cli.pipeline_stages import ROOT

        references = [json_text.loads(found.read_text(encoding="utf-8")) for found in sorted(ROOT.glob(CPU_RESULTS))]
        self.document |= judge_uar(self.document, references)
        self.document |= {"goals": evaluate(self.document), "seconds": time.monotonic() - self.begin}
        write_document(path, self.document)

    def measure(self, undisturbed: bool) -> dict[str, Any]:
        """Run all stages, or those up to the first that fails."""
        try:
            self._make_data()
            for seed in self.seeds:
                self._train_and_score(seed, killed=seed == self.seeds[0], undisturbed=undisturbed)
            self.document["complete"] = True
        except UserError as error:
            self.document["failure"] = str(error)
        self.write(self.report)
        return self.document

    def _make_data(self) -> None:
        from s4d.cli.pipeline_stages import s4d_command

        self.stages.run("generate", s4d_command(self.layout.generate(self.size)))
        self.stages.run("prepare", s4d_command(self.layout.prepare()))
        self.stages.run("validate", s4d_command(self.layout.validate()))
        self.document["loader"] = self._choose_loader()

    def _choose_loader(self) -> dict[str, Any]:
        """DALI on a GPU where it decodes the files of both tasks, PyAV elsewhere, and what trials of all said."""
        from s4d.cli.pipeline_stages import CONFIGS
        from s4d.config import load
        from s4d.data.backends import try_all
        from s4d.data.plan import build_plan

        trials, refusals = {}, []
        for task, path in CONFIGS.items():
            config = load(path, self.layout.overrides(self.size, task, self.seeds[0], backend="auto"))
            found = try_all(config, build_plan(config, world_size=self.ranks), self.device)
            trials[task] = {trial.backend: trial.refusal or f"{trial.views_per_second:.0f} views/s" for trial in found}
            refusals += [trial.refusal for trial in found if trial.backend == "dali" and trial.refusal]
        if self.device.type == "cpu":
            backend, reason = "pyav", "training on a CPU"
        else:
            backend = "pyav" if refusals else "dali"
            reason = f"dali refused: {refusals[0]}" if refusals else "dali decodes the files of both tasks"
        told = "; ".join(f"{task}: {name}: {word}" for task, each in trials.items() for name, word in each.items())
        print_lines([f"decoded by {backend}: {reason} ({told})"])
        return {"backend": backend, "reason": reason, "trials": trials}

    def _train_and_score(self, seed: int, *, killed: bool, undisturbed: bool) -> None:
        self._train("pretrain", seed)
        if killed:
            self._train_killed(seed)
            if undisturbed:
                self._compare_undisturbed(seed)
        else:
            self._train("finetune", seed)
        self._score(seed)

    def _command(self, task: str, seed: int, suffix: str = "") -> list[str]:
        from s4d.cli.pipeline_stages import training_command

        backend = self.document["loader"]["backend"]
        overrides = self.layout.overrides(self.size, task, seed, backend=backend, suffix=suffix)
        return training_command(task, overrides, self.ranks)

    def _train(self, task: str, seed: int) -> None:
        self.stages.run(f"{task}-{seed}", self._command(task, seed))
        self._describe(task, seed)

    def _train_killed(self, seed: int) -> None:
        from s4d.cli.pipeline_stages import reached_step, saved_step

        folder, at = self.layout.run_dir("finetune", seed), self.size.kill_step
        command = self._command("finetune", seed)
        self.stages.run(
            f"finetune-{seed}-killed", command, kill_when=lambda: reached_step(folder) >= at and saved_step(folder) > 0
        )
        resume: dict[str, Any] = {"killed_at_step": reached_step(folder), "saved_step": saved_step(folder)}
        self.document["resume"] = resume
        said = self.stages.run(f"finetune-{seed}", command)
        continued = CONTINUED.search(said)
        resume |= {"continued_from": int(continued[1]) if continued else 0, "differing_files": None}
        self._describe("finetune", seed)

    def _compare_undisturbed(self, seed: int) -> None:
        from s4d.cli.pipeline_stages import differing_files

        self.stages.run(f"finetune-{seed}-undisturbed", self._command("finetune", seed, "-undisturbed"))
        folders = [self.layout.run_dir("finetune", seed, suffix) for suffix in ("", "-undisturbed")]
        self.document["resume"]["differing_files"] = differing_files(*folders)

    def _score(self, seed: int) -> None:
        from s4d.cli.pipeline_stages import s4d_command

        folder = self.layout.run_dir("finetune", seed)
        answer = self.layout.work / "logs" / f"evaluate-{seed}.json"
        self.stages.run(f"evaluate-{seed}", s4d_command([["evaluate", str(folder), "--json"]]), out=answer)
        self.document["scores"].append({"seed": seed, **json_text.loads(answer.read_text("utf-8"))["scores"]})

    def _describe(self, task: str, seed: int) -> None:
        """Backends, rates and collectives of a finished run, of the first seed alone."""
        if seed != self.seeds[0]:
            return
        from s4d.analysis.artefacts import read_json
        from s4d.analysis.curves import series
        from s4d.analysis.run_folder import read_run

        run = read_run(self.layout.run_dir(task, seed))
        self.document["backends"][task] = read_json(run.path / "backends.json")
        self.document["collectives"] = run.environment["collectives"]
        # The first intervals hold the start of the data path, and compiling.
        step, data, samples = (
            statistics.median(series(run.metrics, f"time/{name}")[1][-10:])
            for name in ("step", "data", "samples_per_second")
        )
        self.document["rates"][task] = {
            "steps_per_second": 1 / step,
            "samples_per_second": samples,
            "data_wait_share": data / step,
        }


def _show(document: dict[str, Any]) -> None:
    from s4d.cli.bench_tables import show_goals

    print_table(
        ("task", "steps/s", "samples/s", "waits for data"),
        [
            (
                task,
                f"{rate['steps_per_second']:.2f}",
                f"{rate['samples_per_second']:.0f}",
                f"{rate['data_wait_share']:.0%}",
            )
            for task, rate in document["rates"].items()
        ],
    )
    for task, backends in document["backends"].items():
        print_lines([f"{task}: {call}: {name}" for call, name in backends.items()])
    for row in document["scores"]:
        told = ", ".join(f"{name} {value:.4f}" for name, value in row.items() if name != "seed")
        print_lines([f"seed {row['seed']}: {told}"])
    if document["uar_within_noise"] is None:
        print_lines([f"UAR not judged: {document['uar_judgement']}"])
    show_goals(document["goals"])
    sys.stdout.flush()
