"""Undisturbed runs, one for each way of starting, and starting others in the same way to be compared to them."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path

import trials

SAVE_EVERY = 3
STEPS = 12
ARGUMENTS = (
    f"engine.steps={STEPS}",
    f"engine.save_every={SAVE_EVERY}",
    "engine.eval_every=4",
    "engine.keep_last=2",
    "data.val_share=0.3",
)
RANKS = {"forked": 1, "pair": 2, "launched": 2}


class Calm:
    """What an undisturbed run of a form gives and how long it takes; made when first asked for."""

    def __init__(self, bench: trials.Bench, arguments: tuple[str, ...] = ARGUMENTS) -> None:
        self.bench = bench
        self.arguments = arguments
        self._seconds: dict[str, float] = {}
        self._number = 0

    def start(self, form: str, run_file: Path) -> trials.Trial:
        """Start a run: "forked" alone, a "pair" of ranks with nobody above them, or "launched" by deepspeed."""
        if form == "launched":
            return self.bench.launch(run_file, *self.arguments)
        return self.bench.fork(run_file, *self.arguments, ranks=0 if form == "forked" else 2)

    def result(self, form: str) -> Path:
        """Run folder of an undisturbed run."""
        run_file = self.bench.write_run(f"calm-{form}")
        if form not in self._seconds:
            shutil.rmtree(run_file.with_suffix(""), ignore_errors=True)
            trial = self.start(form, run_file)
            assert trial.wait() == 0, trial.err
            self._seconds[form] = time.monotonic() - trial.began
            trial.close()
        return run_file.with_suffix("")

    def seconds(self, form: str) -> float:
        """How long an undisturbed run takes."""
        self.result(form)
        return self._seconds[form]

    def new_run(self) -> Path:
        """Configuration of a run in a folder that does not exist yet."""
        self._number += 1
        run_file = self.bench.write_run(f"run-{self._number}")
        self.remove(run_file)
        return self.bench.write_run(f"run-{self._number}")

    def remove(self, run_file: Path) -> None:
        """Remove a run and its configuration."""
        shutil.rmtree(run_file.with_suffix(""), ignore_errors=True)
        run_file.unlink(missing_ok=True)

    def finish(self, form: str, run_file: Path) -> None:
        """Continue with the same command to the end and compare to the bit; AssertionError where anything differs."""
        trial = self.start(form, run_file)
        assert trial.wait() == 0, f"{trial.out}\n{trial.err}"
        trial.close()
        trials.assert_same(run_file.with_suffix(""), self.result(form))
        left = [path.name for path in run_file.with_suffix("").rglob(".tmp-*")]
        assert not left, f"left in the run folder: {left}"
        self.remove(run_file)


def in_save(run_dir: Path) -> bool:
    """Whether a checkpoint is being written right now."""
    return any(path.name.startswith(".tmp-step") for path in _entries(run_dir))


def in_prune(run_dir: Path) -> bool:
    """Whether an old checkpoint is being removed right now."""
    return any(path.name.startswith(".tmp-gone") for path in _entries(run_dir))


def _entries(run_dir: Path) -> list[Path]:
    folder = run_dir / "checkpoints"
    return list(folder.iterdir()) if folder.is_dir() else []


def phase(run_dir: Path) -> str:
    """What a run was at when it was stopped, seen from its folder."""
    if in_save(run_dir):
        return "save"
    if in_prune(run_dir):
        return "prune"
    if not trials.logged(run_dir):
        return "start"
    return "end" if trials.reached(run_dir) == STEPS else "train"


def at_random(trial: trials.Trial, run_dir: Path, draw: random.Random, seconds: float) -> None:
    """Wait for a random moment of the run's life or, half of the time, within a save or the removal of an old one."""
    kind = draw.choice(("life", "life", "save", "prune"))
    if kind == "life":
        time.sleep(draw.uniform(0, seconds))
        return
    # The n-th time that it happens, so that not always the first is met.
    for _ in range(draw.randint(1, 2)):
        wait_while(trial, run_dir, kind, busy=True)
        wait_while(trial, run_dir, kind, busy=False)
    wait_while(trial, run_dir, kind, busy=True)
    time.sleep(draw.uniform(0, 0.003))


def wait_while(trial: trials.Trial, run_dir: Path, kind: str, *, busy: bool) -> None:
    """Wait until the run is (`busy`) or no longer is at something, or has ended."""
    seen = in_save if kind == "save" else in_prune
    limit = time.monotonic() + trials.LIMIT_SECONDS
    checks = 0
    while seen(run_dir) is not busy and time.monotonic() < limit:
        checks += 1
        if checks % 64 == 0 and trial.status() is not None:
            return
