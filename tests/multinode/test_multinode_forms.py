"""Scripts as they are handed out: Slurm (with stand-ins for its commands), and one per node from docs/multi-node.md."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import rig_runs
import trials
from rig import Rig
from rig_node import ROOT
from rig_runs import SHARED, Run

pytestmark = [pytest.mark.launch, pytest.mark.multinode, pytest.mark.deep]

PAGE = ROOT / "docs/multi-node.md"
# One task on each of two nodes, the variables that Slurm hands on, and the largest status as its own.
SRUN = """#!/bin/bash
[ "$1" = --kill-on-bad-exit=0 ] || exit 9
shift
for task in 0 1; do
    known=$(export -p | grep -E '(MASTER_|WORLD_SIZE|LOCAL_SIZE|OMP_|GLOO_|DS_ACC)')
    ssh "n$task" "$known; export SLURM_PROCID=$task SLURM_LOCALID=0; cd '$PWD'; exec $(printf '%q ' "$@")" &
done
worst=0
for job in $(jobs -p); do wait "$job"; code=$?; ((code > worst)) && worst=$code; done
exit $worst
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then printf 'n0\\nn1\\n'; else echo "$@" >> /mnt/shared/requeued; fi
"""
SQUEUE = """#!/bin/bash
echo RUNNING
"""


@pytest.fixture(scope="module")
def project(rig: Rig) -> Iterator[Rig]:
    rig_runs.write_project(rig)
    (rig.shared / "bin").mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("squeue", SQUEUE)):
        (rig.shared / "bin" / name).write_text(text)
        (rig.shared / "bin" / name).chmod(0o755)
    yield rig


def script(rig: Rig, word: str, **values: str) -> str:
    """Write the script of the page that holds `word`, with other values for the variables at its top."""
    found = [text for text in re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL) if word in text]
    assert len(found) == 1
    for name, value in values.items():
        found[0], count = re.subn(rf"^{name}=.*$", f"{name}={value}", found[0], flags=re.MULTILINE)
        assert count == 1, name
    (rig.shared / f"{word}.sh").write_text(found[0])
    return str(SHARED / f"{word}.sh")


def long_run(rig: Rig, name: str) -> str:
    return rig_runs.write_run(rig, name, engine={"steps": 400, "save_every": 200})


def stopped(run: Run, status: int) -> int:
    """All commands end with this status after a checkpoint; returns its step."""
    assert set(run.wait(60)) == {status}, run.out
    run.assert_nothing_left()
    saved = trials.saved_step(run.run_dir)
    assert saved == trials.lines(run.run_dir)[-1]["step"]
    return saved


def test_slurm_queues_a_stopped_run_again(project: Rig) -> None:
    run_file = long_run(project, "slurm")
    command = ["bash", "scripts/train.sbatch", run_file]
    variables = {"SLURM_JOB_ID": "17", "SLURM_JOB_NODELIST": "n[0-1]", "SLURM_NTASKS": "2"}
    path = f"/mnt/shared/bin:{os.environ['PATH']}"
    environment = {**rig_runs.NEEDED, **variables, "SLURM_NTASKS_PER_NODE": "1", "PATH": path}

    def queue() -> Run:
        run = rig_runs.begin(project, project.nodes[:2], run_file)
        run.commands.append(project.head.start(command, environment=environment, out=run.log))
        return run

    first = queue()
    first.until(lambda: first.logged() >= 3)
    for pid in first.ranks().values():
        os.kill(pid, signal.SIGUSR1)
    saved = stopped(first, 75)
    assert (project.shared / "requeued").read_text() == "requeue 17\n"
    second = queue()
    second.until(lambda: second.logged() > saved + 2)
    assert f"(step {saved})" in second.out
    second.kill()


def test_a_script_per_node_hands_a_request_to_stop_on(project: Rig) -> None:
    run_file = long_run(project, "per-node")
    node_script = script(project, "NODE_RANK", project=str(ROOT), config=run_file, slots="1")
    run = rig_runs.begin(project, project.nodes[:2], run_file)
    for rank, node in enumerate(project.nodes[:2]):
        known = {**rig_runs.NEEDED, "NODE_RANK": str(rank), "MASTER_ADDR": "n0"}
        run.commands.append(node.start(["bash", node_script], environment=known, out=run.log))
    run.until(lambda: run.logged() >= 3)
    for pid in project.nodes[1].with_command(Path(node_script).name):
        os.kill(pid, signal.SIGTERM)
    stopped(run, 75)
