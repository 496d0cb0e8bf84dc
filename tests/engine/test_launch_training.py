"""`deepspeed engine/train.py` and `python engine/train.py` as a user starts, kills and continues them."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_ports import free_port
from engine_project import write_media, write_run

pytestmark = pytest.mark.launch

ROOT = Path(__file__).resolve().parents[2]
STEPS = 16
LIMIT = 150.0


def launch(path: Path, *arguments: str, ranks: int = 2) -> subprocess.Popen[str]:
    """Start training in a process group of its own; `ranks` 0 is plain python."""
    bin_dir = Path(sys.executable).parent
    command = [sys.executable, "engine/train.py"]
    if ranks:
        command = [str(bin_dir / "deepspeed"), "--num_accelerators", str(ranks), "--master_port", str(free_port())]
        command.append("engine/train.py")
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    environment["PATH"] = f"{bin_dir}{os.pathsep}{environment['PATH']}"
    return subprocess.Popen(
        [*command, "--config", str(path), *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit status, standard output and error output."""
    try:
        out, error = process.communicate(timeout=LIMIT)
    finally:
        kill_group(process)
    return process.returncode, out, error


def kill_group(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    """Wait for a condition; a process that ends before fails the test with what it said."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        if process is not None and process.poll() is not None and not condition():
            raise AssertionError(f"ended with {process.returncode}: {process.communicate()}")
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def logged(run_dir: Path) -> int:
    path = run_dir / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def lines(run_dir: Path) -> list[dict[str, Any]]:
    entries = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in entry.items() if not name.startswith("time/")} for entry in entries]


def alive(group: int) -> list[str]:
    """Command lines of the processes of a session that are still there."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == group and fields[0] != "Z":
                found.append((entry / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    write_media(root)
    return root


@pytest.fixture(scope="module")
def shared_memory() -> Iterator[set[str]]:
    yield set(os.listdir("/dev/shm"))


OVERRIDES = (f"engine.steps={STEPS}", "data.workers=1", "data.on_error=skip")


@pytest.fixture(scope="module")
def whole(project: Path, shared_memory: set[str]) -> Path:
    """A run of two DeepSpeed ranks that nobody disturbed."""
    code, out, error = finished(launch(write_run(project, "whole"), *OVERRIDES))
    assert code == 0, out + error
    return project / "whole"


def test_run_folder_is_complete(whole: Path) -> None:
    names = {path.name for path in whole.iterdir()}
    assert names >= {
        "config.yaml",
        "env.json",
        "ds_config.json",
        "backends.json",
        "metrics.jsonl",
        "checkpoints",
        "evaluation.json",
    }
    newest = whole / "checkpoints" / (whole / "checkpoints/latest").read_text().strip()
    assert newest.name == f"step-{STEPS:08d}"
    assert {path.name for path in newest.iterdir()} == {
        "model.safetensors",
        "optimizer.safetensors",
        "ema.safetensors",
        "state.json",
        "settings.json",
        "config.json",
        "manifest.json",
    }
    assert len(list((whole / "checkpoints").glob("step-*"))) == 2, "keep_last"
    assert json.loads((whole / "env.json").read_text())["world_size"] == 2
    metrics = json.loads((newest / "config.json").read_text())["metrics"]
    final = json.loads((whole / "evaluation.json").read_text())["sources"]
    assert (metrics["step"], metrics["split"]) == (STEPS, "test"), "the scores found after the last step"
    assert {name: entry["uar"] for name, entry in metrics["sources"].items()} == {n: s["uar"] for n, s in final.items()}


def test_shared_memory_is_unchanged(whole: Path, shared_memory: set[str]) -> None:
    # Other programs on the machine may use it meanwhile; what our ranks leaked would stay.
    wait_until(lambda: set(os.listdir("/dev/shm")) <= shared_memory)


def test_killed_and_stopped_runs_continue_to_the_bit(project: Path, whole: Path) -> None:
    """SIGKILL to everything at a random step, then SIGTERM to the launcher alone, then to the end."""
    path, run_dir = write_run(project, "disturbed"), project / "disturbed"
    first = launch(path, *OVERRIDES)
    kill_at = random.Random(os.getpid()).randrange(6, 9)
    wait_until(lambda: logged(run_dir) >= kill_at, first)
    kill_group(first)
    wait_until(lambda: not alive(first.pid))

    second = launch(path, *OVERRIDES)
    wait_until(lambda: f"step {10}/" in "".join(tail(run_dir)), second)
    # The single-node launcher dies of this without a word to its ranks, which must notice by themselves.
    os.kill(second.pid, signal.SIGTERM)
    wait_until(lambda: not alive(second.pid))
    saved = sorted((run_dir / "checkpoints").glob("step-*"))[-1]
    assert saved.name >= "step-00000010"

    code, out, error = finished(launch(path, *OVERRIDES))
    assert code == 0, out + error
    assert f"continuing from {saved}" in out
    assert lines(run_dir) == lines(whole), f"killed after {kill_at} steps, stopped at {saved.name}"
    for file in ("model.safetensors", "optimizer.safetensors", "ema.safetensors"):
        last = Path(f"checkpoints/step-{STEPS:08d}") / file
        assert (run_dir / last).read_bytes() == (whole / last).read_bytes(), file
    assert (run_dir / "backends.json").read_text() == (whole / "backends.json").read_text()


def tail(run_dir: Path) -> list[str]:
    path = run_dir / "metrics.jsonl"
    entries = (
        [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []
    )
    return [f"step {entry['step']}/ " for entry in entries]


def test_plain_python_stops_on_ctrl_c_and_says_how_to_go_on(project: Path) -> None:
    path, run_dir = write_run(project, "plain", task="pretrain"), project / "plain"
    overrides = ("engine.steps=2000", "engine.save_every=1000", "engine.zero_stage=0", "data.workers=1")
    process = launch(path, *overrides, ranks=0)
    wait_until(lambda: logged(run_dir) >= 2, process)
    os.killpg(process.pid, signal.SIGINT)
    code, out, error = finished(process)
    assert code == 75, out + error
    assert "stopped on request" in out and "Traceback" not in error
    saved = json.loads(next((run_dir / "checkpoints").glob("step-*/state.json")).read_text())
    assert saved["step"] == lines(run_dir)[-1]["step"]

    code, _, error = finished(launch(path, *overrides, "--resume", "never", ranks=0))
    assert code == 3
    assert error.splitlines()[-1].startswith(f"error: {run_dir}: holds progress up to step")

    code, _, error = finished(launch(path, *overrides, "model.embed_dim=64", ranks=0))
    assert code == 3
    message = error.splitlines()[-1]
    assert "Traceback" not in error and "model.embed_dim: 32 -> 64" in message


def test_failure_on_one_rank_is_one_line_and_ends_all(project: Path) -> None:
    """A quota that two ranks cannot share: all leave, one says why, the launcher passes the status on."""
    path = write_run(project, "uneven")
    code, _, error = finished(launch(path, "batch.per_step.stills=3"))
    assert code == 2
    said = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and "batch.per_step.stills" in said[0] and "Traceback" not in error


def test_broken_data_leaves_no_run_folder_and_fresh_replaces_progress(project: Path) -> None:
    path, run_dir = write_run(project, "renewed"), project / "renewed"
    short = ("engine.steps=1", "engine.zero_stage=0")
    code, _, error = finished(launch(path, *short, f"data.sources.0.manifest={project}/absent.csv", ranks=0))
    assert code == 1 and "absent.csv" in error and len(error.splitlines()) == 1
    assert not run_dir.exists()
    assert finished(launch(path, *short, ranks=0))[0] == 0
    code, out, error = finished(launch(path, *short, "seed=5", "--fresh", ranks=0))
    assert code == 0 and "starting at step 0" in out, error
    assert [line["step"] for line in lines(run_dir)] == [1]


def test_wrong_key_is_one_line_from_one_rank(project: Path) -> None:
    code, _, error = finished(launch(write_run(project, "typo"), "engine.step=3"))
    assert code == 2
    assert [line for line in error.splitlines() if line.startswith("error: ")] == [
        "error: command line: engine.step: unknown key; did you mean 'steps'?"
    ]
    assert not (project / "typo").exists()
