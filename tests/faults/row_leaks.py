"""R22: a long run grows in nothing: memory, descriptors, threads, processes, shared memory, temporary files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import trials
from scipy.stats import theilslopes

STEPS = 10_000
FIRST = 1_000
RESUMES = 50
ARGUMENTS = ("engine.zero_stage=0", "engine.log_every=50", "engine.save_every=500", "engine.keep_last=2")
bench: trials.Bench


def prepare(folder: Path) -> None:
    """Start the server of the trials."""
    global bench
    bench = trials.Bench(folder)


def run(number: int, folder: Path) -> tuple[str, float]:
    """One long run of a task, or the same run continued many times; the value is KiB of memory a step."""
    if number == 3:
        return "continued again and again", resume(RESUMES)
    return ("image pretraining", "video pretraining", "finetuning")[number], train(number, STEPS, FIRST)


def sources(number: int) -> tuple[str, ...]:
    """Overrides that leave one modality of the tiny project."""
    if number == 2:
        return ()
    name, modality, stride = (("stills", "image", ""), ("clips", "video", ", stride: 1"))[number]
    manifest = bench.folder / f"{name}.csv"
    one = f"{{name: {name}, modality: {modality}, manifest: {manifest}{stride}}}"
    return (f"data.sources=[{one}]", f"batch.per_step={{{name}: 4}}")


def train(number: int, steps: int, first: int) -> float:
    """Slope of the resident memory over the steps after `first`; AssertionError where anything else grew."""
    run_file = bench.write_run("long", task="finetune" if number == 2 else "pretrain")
    run_dir = run_file.with_suffix("")
    shutil.rmtree(run_dir, ignore_errors=True)
    trial = bench.fork(run_file, f"engine.steps={steps}", *ARGUMENTS, *sources(number))
    samples: list[tuple[int, int]] = []
    counts: list[tuple[int, int, int, int]] = []
    while (step := trials.reached(run_dir)) < steps - 50:
        past = samples[-1][0] if samples else 0
        trial.until(lambda past=past: trials.reached(run_dir) > max(past, first), seconds=600)
        step = trials.reached(run_dir)
        if step < steps - 50 and not writing(run_dir):
            samples.append((step, resident(trial.pid)))
            counts.append(count(trial))
    assert trial.wait() == 0, trial.err
    trial.close()
    shutil.rmtree(run_dir)
    # A sample may meet a checkpoint on its way: what grows is there most of the time.
    half = len(counts) // 2
    for name, early, late in zip(
        ("descriptors", "threads", "processes", "shared memory"),
        np.median(counts[:half], axis=0),
        np.median(counts[half:], axis=0),
        strict=True,
    ):
        assert late <= early, f"{name}: {early:g} in the first half, {late:g} in the second"
    at, kib = np.array(samples, dtype=np.float64).T
    # The median of all slopes between two samples: an allocator takes 4 MiB at once, here and there, and a line through
    # all samples would call that growth. Over 40,000 steps that happened once, and 0.4 MiB were added otherwise.
    return float(theilslopes(kib, at).slope)


def writing(run_dir: Path) -> bool:
    """Whether a checkpoint is on its way."""
    return any(path.name.startswith(".tmp-") for path in (run_dir / "checkpoints").glob(".*"))


def resident(pid: int) -> int:
    """KiB of memory in use."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 10


def count(trial: trials.Trial) -> tuple[int, int, int, int]:
    """Descriptors, threads, processes and names in shared memory."""
    process = Path(f"/proc/{trial.pid}")
    return (
        len(os.listdir(process / "fd")),
        len(os.listdir(process / "task")),
        len(trial.members()),
        len(bench.shared_memory()),
    )


def resume(times: int) -> float:
    """Stop a run after every few steps and continue it; KiB that the run folder grew a start, nothing may be left."""
    run_file = bench.write_run("again")
    run_dir = run_file.with_suffix("")
    shutil.rmtree(run_dir, ignore_errors=True)
    names: list[int] = []
    for start in range(1, times + 1):
        trial = bench.fork(run_file, "engine.steps=2000", "engine.zero_stage=0")
        before = trials.reached(run_dir)
        trial.until(lambda before=before: trials.reached(run_dir) > before)
        trial.signal(15)
        assert trial.wait() == 75, f"start {start}: {trial.err}"
        trial.close()
        names.append(sum(len(files) for _, _, files in os.walk(run_dir)))
    assert names[-1] <= names[2], f"files in the run folder: {names}"
    shutil.rmtree(run_dir)
    return 0.0
