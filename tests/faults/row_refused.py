"""R6: progress that cannot be continued is refused and what was tried is named; only `--fresh` starts over."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import trials

SHORT = ("engine.steps=9", "engine.save_every=2", "engine.zero_stage=0", "engine.keep_last=2")
Change = Callable[[Path], object]


def each(pattern: str, change: Change) -> Change:
    """Do something to every file that matches."""
    return lambda run_dir: [change(path) for path in sorted(run_dir.glob(pattern))]


def flip(path: Path) -> None:
    """Change one bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def cut(path: Path) -> None:
    """Drop the second half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def only(*kept: str) -> Change:
    """Remove everything but these."""

    def change(run_dir: Path) -> None:
        for path in run_dir.iterdir():
            if path.name not in kept:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def replaced_by_file(run_dir: Path) -> None:
    """A file where the checkpoints were."""
    shutil.rmtree(run_dir / "checkpoints")
    (run_dir / "checkpoints").write_text("")


CASES: dict[str, Change] = {
    "no checkpoints": lambda run_dir: shutil.rmtree(run_dir / "checkpoints"),
    "empty checkpoints": each("checkpoints/*", lambda path: shutil.rmtree(path) if path.is_dir() else path.unlink()),
    "pointer alone": each("checkpoints/step-*", shutil.rmtree),
    "a file for the folder": replaced_by_file,
    "metrics alone": only("metrics.jsonl"),
    "evaluation alone": only("evaluation.json"),
    "predictions alone": only("predictions.csv"),
    "logits alone": only("predictions.npz"),
    "routing alone": only("routing.json"),
    "finish record alone": only("finished.json"),
    "metrics damaged, no checkpoints": lambda run_dir: (
        only("metrics.jsonl")(run_dir),
        (run_dir / "metrics.jsonl").write_bytes(b"\0\0\n" + (run_dir / "metrics.jsonl").read_bytes()),
    ),
    "no manifests": each("checkpoints/step-*/manifest.json", Path.unlink),
    "empty manifests": each("checkpoints/step-*/manifest.json", lambda path: path.write_bytes(b"")),
    "cut manifests": each("checkpoints/step-*/manifest.json", cut),
    "flipped manifests": each("checkpoints/step-*/manifest.json", flip),
    "no weights": each("checkpoints/step-*/model.safetensors", Path.unlink),
    "cut weights": each("checkpoints/step-*/model.safetensors", cut),
    "flipped weights": each("checkpoints/step-*/model.safetensors", flip),
    "flipped moments": each("checkpoints/step-*/optimizer.safetensors", flip),
    "cut counters": each("checkpoints/step-*/state.json", cut),
    "flipped counters": each("checkpoints/step-*/state.json", flip),
    "emptied steps": each("checkpoints/step-*/*", Path.unlink),
    "renamed steps": each("checkpoints/step-*", lambda path: path.rename(path.with_name(path.name + ".old"))),
}
NAMES = tuple(CASES)
bench: trials.Bench
whole: Path


def prepare(folder: Path) -> None:
    """A finished run to be copied and spoilt."""
    global bench, whole
    bench = trials.Bench(folder)
    run_file = bench.write_run("whole")
    whole = run_file.with_suffix("")
    shutil.rmtree(whole, ignore_errors=True)
    trial = bench.fork(run_file, *SHORT)
    assert trial.wait() == 0, trial.err
    trial.close()


def contents(run_dir: Path) -> dict[str, bytes | None]:
    """Every path with its bytes, but for the file that says who has the folder."""
    paths = (path for path in run_dir.rglob("*") if not path.name.startswith(".lease-"))
    return {str(path.relative_to(run_dir)): path.read_bytes() if path.is_file() else None for path in paths}


def run(number: int, folder: Path) -> str:
    """Spoil a copy; it must be refused untouched, and `--fresh` must train it anew."""
    name = NAMES[number]
    run_file = bench.write_run("spoilt")
    run_dir = run_file.with_suffix("")
    if run_dir.exists():
        shutil.rmtree(run_dir)
    shutil.copytree(whole, run_dir, ignore=shutil.ignore_patterns(".lease-*"))
    CASES[name](run_dir)
    before = contents(run_dir)
    trial = bench.fork(run_file, *SHORT)
    assert trial.wait() == 3, f"{name}: {trial.status()}: {trial.out}\n{trial.err}"
    assert len(trial.errors) == 1 and str(run_dir) in trial.errors[0] and "--fresh" in trial.errors[0], trial.err
    said = trial.err
    trial.close()
    for path in sorted((run_dir / "checkpoints").glob("step-*[0-9]")):
        assert path.name in said, f"{path.name} is not among what was tried: {said}"
    after = contents(run_dir)
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    assert not changed, f"a refused folder was changed: {changed}"
    fresh = bench.fork(run_file, *SHORT, "--fresh")
    assert fresh.wait() == 0 and "starting at step 0" in fresh.out, fresh.err
    fresh.close()
    trials.assert_same(run_dir, whole)
    return "refused"
