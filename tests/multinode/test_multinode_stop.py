"""Requests to stop a run over two nodes, made at the head, at a node's launcher, at one rank; and a lost connection."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
import rig_runs
import row_nodes_stop
from rig import Rig
from rig_runs import Run

pytestmark = [pytest.mark.launch, pytest.mark.multinode, pytest.mark.deep]


@pytest.fixture(scope="module")
def project(rig: Rig) -> Iterator[Rig]:
    rig_runs.write_project(rig)
    yield rig


def started(rig: Rig, name: str) -> Run:
    """A long run over two nodes that has made some steps, none of them saved."""
    run_file = rig_runs.write_run(rig, name, engine={"steps": 100_000, "save_every": 50_000})
    run = rig_runs.over_pdsh(rig, rig.nodes[:2], run_file)
    run.until(lambda: run.logged() >= 3)
    return run


def assert_saved(run: Run, status: int) -> None:
    """All is gone in time, the last step that was logged is saved, and the run does not count as done."""
    run.gone(row_nodes_stop.LEAVE_SECONDS)
    row_nodes_stop.check(run, status)


def test_sigterm_to_the_head(project: Rig) -> None:
    """Its launcher ends at once with status 1; the ranks save after that."""
    run = started(project, "head")
    for pid in project.head.with_command("bin/deepspeed --hostfile"):
        os.kill(pid, signal.SIGTERM)
    assert_saved(run, 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_a_launcher_of_a_node(project: Rig, number: int) -> None:
    run = started(project, f"launcher-{number}")
    os.kill(project.nodes[1].launcher(), number)
    assert_saved(run, 75)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_one_rank(project: Rig, number: int) -> None:
    run = started(project, f"rank-{number}")
    os.kill(run.ranks()[1], number)
    assert_saved(run, 75)


def test_a_run_goes_on_when_the_command_alone_is_killed(project: Rig) -> None:
    run_file = rig_runs.write_run(project, "alone", engine={"steps": 40, "save_every": 40})
    run = rig_runs.over_pdsh(project, project.nodes[:2], run_file)
    run.until(lambda: run.logged() >= 1)
    for pid in project.head.with_command("bin/deepspeed --hostfile"):
        os.kill(pid, signal.SIGKILL)
    run.gone(rig_runs.LIMIT_SECONDS)
    assert run.statuses() == [-signal.SIGKILL] and (run.run_dir / "finished.json").exists(), run.out


def test_a_lost_connection_to_the_head_stops_the_run_with_a_checkpoint(project: Rig) -> None:
    """Everything on the head is killed; what the ranks say breaks off, which must not keep them from saving."""
    run = started(project, "unheard")
    for pid in project.head.processes():
        os.kill(pid, signal.SIGKILL)
    assert_saved(run, -signal.SIGKILL)
