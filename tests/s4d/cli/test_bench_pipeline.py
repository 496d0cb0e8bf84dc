"""`s4d bench pipeline`: its commands and what it refuses; and, deep, all of it on tiny models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from s4d.cli import main
from s4d.cli.pipeline_stages import (
    CONFIGS,
    ROOT,
    SIZES,
    TASKS,
    Layout,
    Stages,
    differing_files,
    reached_step,
    recipe_of,
    s4d_command,
    saved_step,
    training_command,
)
from s4d.config import load
from s4d.errors import DataError


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("task", TASKS)
def test_the_command_lines_are_configurations(size: str, task: str) -> None:
    layout = Layout(work=Path("/some where/12: x"))
    config = load(CONFIGS[task], layout.overrides(SIZES[size], task, 3, backend="dali", suffix="-again"))
    assert (config.task, config.seed, config.data.backend, config.engine.precision) == (task, 3, "dali", "bf16")
    assert config.run_dir == f"/some where/12: x/{task}-3-again"
    assert all(str(source.manifest).startswith("/some where/12: x/manifests/") for source in config.data.sources)
    assert config.model.init_from == (None if task == "pretrain" else "/some where/12: x/pretrain-3")


@pytest.mark.parametrize("name", SIZES)
def test_a_run_is_killed_between_its_checkpoints(name: str) -> None:
    size = SIZES[name]
    assert 2 * size.save_every < size.kill_step < size.finetune_steps - size.save_every
    assert size.kill_step % size.save_every and size.kill_step % size.log_every == 0


def test_training_goes_through_the_launcher() -> None:
    command = training_command("finetune", ["seed=1"], 2)
    assert command[1:5] == ["-m", "deepspeed.launcher.runner", "--num_accelerators", "2"]
    assert command[-4:] == [str(ROOT / "engine/train.py"), "--config", str(CONFIGS["finetune"]), "seed=1"]


def test_a_recipe_says_what_makes_scores_comparable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = recipe_of("full")
    assert json.loads(json.dumps(before)) == before != recipe_of("tiny")
    changed = tmp_path / "changed.yaml"
    changed.write_text(CONFIGS["finetune"].read_text().replace("lr: 1.0e-3", "lr: 1.1e-3"))
    monkeypatch.setitem(CONFIGS, "finetune", changed)
    after = recipe_of("full")
    assert [before["configurations"][task] == after["configurations"][task] for task in TASKS] == [True, False]


def test_progress_of_a_running_run(tmp_path: Path) -> None:
    assert (reached_step(tmp_path), saved_step(tmp_path)) == (0, 0)
    (tmp_path / "metrics.jsonl").write_text('{"step": 4}\n{"step": 8}\n{"step": 9')
    for name in ("step-00000004", "step-00000008", "step-00000012.tmp"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert (reached_step(tmp_path), saved_step(tmp_path)) == (8, 8)


def test_files_that_differ_are_named(tmp_path: Path) -> None:
    for run, step, files in (("a", 4, "m o"), ("b", 4, "m x"), ("c", 8, "m o")):
        folder = tmp_path / run / "checkpoints" / f"step-{step:08d}"
        folder.mkdir(parents=True)
        for name, content in zip(("model", "optimizer"), files.split(), strict=True):
            (folder / f"{name}.safetensors").write_text(content)
    a, b, c = (tmp_path / name for name in "abc")
    assert differing_files(a, a) == []
    assert differing_files(a, b) == ["optimizer.safetensors"]
    assert differing_files(a, c) == ["step"]


def test_a_stage_that_fails_says_why(tmp_path: Path) -> None:
    written: list[int] = []
    stages = Stages(tmp_path, "cpu", 60, lambda: written.append(1))
    with pytest.raises(DataError, match="odd: failed with status 2: s4d: error: no such folder; "):
        stages.run("odd", [sys.executable, "-c", "print('well'); print('s4d: error: no such folder'); exit(2)"])
    with pytest.raises(DataError, match="quick: done"):
        stages.run("quick", [sys.executable, "-c", ""], kill_when=lambda: False)
    assert [record["outcome"] for record in stages.records] == [2, 0] and written == [1, 1]
    assert "no such folder" in stages.records[0]["said"]
    late = Stages(tmp_path, "cpu", 0.05, lambda: None)
    with pytest.raises(DataError, match="late: out of time, the pipeline's limit"):
        late.run("late", [sys.executable, "-c", "import time; time.sleep(60)"])


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").touch()
    for arguments, expected in ((["--seeds", "1,1"], "--seeds: expected"), (["--out", str(mine)], "--out: ")):
        assert main(["bench", "pipeline", "--device", "cpu", "--size", "tiny", *arguments]) == 2
        assert expected in capsys.readouterr().err
    assert (mine / "thesis.txt").exists()


@pytest.mark.deep
@pytest.mark.launch
@pytest.mark.timeout(900)
def test_the_whole_pipeline_on_tiny_models(tmp_path: Path) -> None:
    """In a process of its own, as `make gpu-report` starts it."""
    command = ["bench", "pipeline", "--device", "cpu", "--size", "tiny", "--out", str(tmp_path / "work")]
    done = subprocess.run(
        s4d_command([command]), cwd=ROOT, env={**os.environ}, capture_output=True, text=True, timeout=800
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads((tmp_path / "work/report.json").read_text(encoding="utf-8"))
    assert report["complete"] and report["failure"] is None and report["collectives"] == "gloo"
    outcomes = {stage["name"]: stage["outcome"] for stage in report["stages"]}
    assert outcomes.pop("finetune-0-killed") == "killed" and set(outcomes.values()) == {0}
    resume, size = report["resume"], SIZES["tiny"]
    assert size.kill_step <= resume["killed_at_step"] < size.finetune_steps
    assert resume["continued_from"] == resume["saved_step"] >= size.save_every
    assert resume["differing_files"] == [] and {goal["state"] for goal in report["goals"]} == {"pass"}
    assert {call.partition("(")[0] for call in report["backends"]["finetune"]} >= {"attention", "moae", "patch"}
    assert report["loader"]["backend"] == "pyav" and report["loader"]["trials"]["pretrain"]["pyav"].endswith("views/s")
    assert {"affectnet.uar", "dfew.uar"} <= report["scores"][0].keys() and report["uar_within_noise"] is None
    assert report["rates"]["pretrain"]["samples_per_second"] > 0
