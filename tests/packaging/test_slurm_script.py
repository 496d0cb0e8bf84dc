"""scripts/train.sbatch with stand-ins for Slurm's commands: how each rank is started, and what becomes of its end.

Slurm itself is not here. On namespaces with real ranks the script runs in tests/multinode.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "train.sbatch"
BESIDE = Path(sys.executable).parent / "shellcheck"
SHELLCHECK = str(BESIDE) if BESIDE.exists() else shutil.which("shellcheck")
# Two nodes with two tasks each; the largest status is its own, and a signal goes on to all tasks.
SRUN = """#!/bin/bash
[ "$1" = --kill-on-bad-exit=0 ] || exit 99
shift
tasks=()
for task in 0 1 2 3; do
    SLURM_PROCID=$task SLURM_LOCALID=$((task % 2)) "$@" &
    tasks+=($!)
done
trap 'kill -USR1 "${tasks[@]}"' USR1
worst=0
for task in "${tasks[@]}"; do
    while wait "$task"; code=$?; kill -0 "$task" 2>/dev/null; do :; done
    ((code > worst)) && worst=$code
done
exit $worst
"""
SCONTROL = """#!/bin/bash
case $1 in
    show) [ "$2 $3" = "hostnames node[1-2]" ] && printf 'node1\\nnode2\\n' ;;
    *) echo "$@" >> asked ;;
esac
"""
SQUEUE = """#!/bin/bash
[ "$*" = "--noheader --jobs=123456 --format=%T" ] && echo "$STATE"
"""
# A rank: tells what it was started with, then waits for a signal if it is to be signalled.
RANK = """
import json, os, signal, sys, time
signalled = []
signal.signal(signal.SIGUSR1, lambda *_: signalled.append(1))
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS")
with open(f"rank{os.environ['RANK']}.json", "w") as stream:
    json.dump([sys.argv[1:], {name: os.environ[name] for name in names}], stream)
while os.environ["STATUS"] == "signal" and not signalled:
    time.sleep(0.02)
sys.exit(75 if signalled else int(os.environ["STATUS"]))
"""


@dataclass(frozen=True)
class Job:
    """A project folder with the stand-ins, in which the script is submitted."""

    folder: Path

    def begin(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        python = self.folder / "python"
        python.write_text(f'#!/bin/bash\nexec {sys.executable} rank.py "$@"\n')
        python.chmod(0o755)
        known = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "OMP_"))},
            **{"SLURM_JOB_ID": "123456", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NTASKS": "4"},
            **{"SLURM_NTASKS_PER_NODE": "2", "S4D_PYTHON": str(python), "STATE": "RUNNING", "STATUS": "0"},
            "PATH": f"{self.folder}:{os.environ['PATH']}",
            **variables,
        }
        command = ["bash", str(SCRIPT), *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=self.folder, env=known, stdout=pipe, stderr=pipe, text=True)

    def status(self, *arguments: str, **variables: str) -> int:
        process = self.begin(*arguments, **variables)
        process.communicate(timeout=60)
        return process.returncode

    @property
    def requeued(self) -> bool:
        path = self.folder / "asked"
        return path.exists() and path.read_text() == "requeue 123456\n"


@pytest.fixture
def job(tmp_path: Path) -> Job:
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "squeue": SQUEUE}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "rank.py").write_text(RANK)
    (tmp_path / "run.yaml").write_text("name: run\n")
    return Job(tmp_path)


def test_every_rank_is_told_its_place_and_the_same_command(job: Job) -> None:
    assert job.status("run.yaml", "optim.lr=1e-4", "data.mask_ratio={image: 0.5, video: 0.9}") == 0
    started = [json.loads((job.folder / f"rank{rank}.json").read_text()) for rank in range(4)]
    arguments = ["engine/train.py", "--resume", "auto", "--config", "run.yaml", "optim.lr=1e-4"]
    for rank, (words, variables) in enumerate(started):
        assert words == [*arguments, "data.mask_ratio={image: 0.5, video: 0.9}"]
        assert variables == {
            **{"RANK": str(rank), "LOCAL_RANK": str(rank % 2), "WORLD_SIZE": "4", "LOCAL_SIZE": "2"},
            **{"MASTER_ADDR": "node1", "MASTER_PORT": "23456", "OMP_NUM_THREADS": "1"},
        }
    assert not job.requeued


@pytest.mark.parametrize(
    ("status", "state", "restarts", "again"),
    [
        ("75", "RUNNING", "7", True),
        ("75", "COMPLETING", "0", False),  # cancelled
        ("4", "RUNNING", "2", True),
        ("4", "RUNNING", "3", False),
        ("1", "RUNNING", "0", False),
        ("0", "RUNNING", "0", False),
    ],
)
def test_what_is_queued_again(job: Job, status: str, state: str, restarts: str, again: bool) -> None:
    assert job.status("run.yaml", STATUS=status, STATE=state, SLURM_RESTART_COUNT=restarts) == int(status)
    assert job.requeued is again


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_to_the_script_reaches_the_ranks_and_their_end_is_awaited(job: Job, number: signal.Signals) -> None:
    process = job.begin("run.yaml", STATUS="signal")
    limit = time.monotonic() + 60
    while len(list(job.folder.glob("rank?.json"))) < 4 and time.monotonic() < limit:
        time.sleep(0.05)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 75 and job.requeued


def test_a_missing_configuration_or_task_count_is_said_at_once(job: Job) -> None:
    process = job.begin("nope.yaml")
    assert "train.sbatch: nope.yaml: no such file in" in process.communicate(timeout=60)[1]
    assert process.returncode == 2
    process = job.begin("run.yaml", SLURM_NTASKS_PER_NODE="")
    assert "--ntasks-per-node" in process.communicate(timeout=60)[1]
    assert process.returncode != 0 and not (job.folder / "rank0.json").exists()


def test_the_queue_is_asked_for_a_signal_in_time_and_for_the_same_job_again() -> None:
    asked = {line.split()[1] for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH")}
    assert {"--signal=USR1@300", "--requeue", "--open-mode=append"} <= asked


@pytest.mark.skipif(SHELLCHECK is None, reason="shellcheck is not installed")
def test_shellcheck_has_nothing_to_say() -> None:
    checked = subprocess.run([str(SHELLCHECK), str(SCRIPT)], capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stdout
