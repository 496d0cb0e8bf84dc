"""Training over two and three nodes: the launchers, ZeRO, checkpoints on the shared folder, lost nodes, bad cables."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import rig_links
import rig_runs
import trials
from rig import Rig

pytestmark = [pytest.mark.launch, pytest.mark.multinode, pytest.mark.deep]

STEPS = 10
CONTACT_SECONDS = 6
GONE_SECONDS = 20.0
SHORT = (f"engine.steps={STEPS}", "engine.save_every=4")


@pytest.fixture(scope="module")
def project(rig: Rig) -> Iterator[Rig]:
    rig_runs.write_project(rig)
    yield rig


def finish(run: rig_runs.Run) -> None:
    """Let a run end well and see that nothing is left of it."""
    statuses = run.wait()
    assert set(statuses) == {0}, run.out
    run.assert_nothing_left()


def calm(rig: Rig, stage: int, ranks: int = 2, *, views: int = 4) -> Path:
    """The same run with the same number of ranks on one machine; made once."""
    name = f"calm-{stage}-{ranks}"
    if not (rig.shared / name).exists():
        run_file = rig_runs.write_run(rig, name)
        finish(rig_runs.without_ssh(rig, rig.nodes[:1], run_file, *SHORT, *settings(stage, views), slots=ranks))
    return rig.shared / name


def settings(stage: int, views: int = 4) -> tuple[str, ...]:
    return f"engine.zero_stage={stage}", f"batch.per_step.stills={views}", f"batch.per_step.clips={views}"


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_two_nodes_over_pdsh_learn_what_one_machine_learns(project: Rig, stage: int) -> None:
    run_file = rig_runs.write_run(project, f"pdsh-{stage}")
    run = rig_runs.over_pdsh(project, project.nodes[:2], run_file, *SHORT, *settings(stage))
    finish(run)
    trials.assert_same(run.run_dir, calm(project, stage))
    assert "n0: step" in run.out and "n1: step" not in run.out


def test_three_nodes_without_ssh_learn_what_one_machine_learns(project: Rig) -> None:
    run_file = rig_runs.write_run(project, "three")
    run = rig_runs.without_ssh(project, project.nodes, run_file, *SHORT, *settings(2, 6))
    finish(run)
    trials.assert_same(run.run_dir, calm(project, 2, 3, views=6))


def long_run(rig: Rig, name: str) -> rig_runs.Run:
    """A run over the first two nodes that has saved, with a limit for silent nodes that suits a test."""
    rig_runs.write_project(rig)
    run_file = rig_runs.write_run(
        rig, name, engine={"steps": 2000, "save_every": 4, "phase_seconds": {"contact": CONTACT_SECONDS}}
    )
    run = rig_runs.over_pdsh(rig, rig.nodes[:2], run_file)
    run.until(lambda: trials.saved_step(run.run_dir) >= 4)
    return run


def assert_silence_was_noticed(run: rig_runs.Run) -> None:
    """Nobody waits for the silent node, and one cause names it."""
    run.gone(GONE_SECONDS)
    assert run.statuses()[0] not in (0, None)
    cause = json.loads((run.run_dir / "failure.json").read_text())["cause"]
    assert re.match(rf"node n[01]: silent for [\d.]+ s \(limit {CONTACT_SECONDS} s\), as seen from n[01]", cause), cause
    assert len(run.errors) <= 1 and not (run.run_dir / "finished.json").exists()


def test_a_lost_node_ends_the_run_and_a_new_start_goes_on(tmp_path: Path) -> None:
    """Power failure of the second node, which says no goodbye; the rest ends, and two other nodes go on."""
    with Rig(tmp_path / "own", nodes=3) as rig:
        run = long_run(rig, "lost")
        rig_links.cut(rig, rig.nodes[1])
        rig.nodes[1].lose()
        assert_silence_was_noticed(run)
        saved = trials.saved_step(run.run_dir)
        again = rig_runs.over_pdsh(rig, [rig.nodes[0], rig.nodes[2]], str(rig_runs.SHARED / "lost.yaml"))
        again.until(lambda: f"(step {saved})" in again.out and trials.saved_step(run.run_dir) > saved)
        again.kill()


def test_a_cable_that_fails_in_one_direction_is_noticed(tmp_path: Path) -> None:
    with Rig(tmp_path / "own", nodes=2) as rig:
        run = long_run(rig, "deaf")
        rig_links.deafen(rig.nodes[1], rig.nodes[0])
        assert_silence_was_noticed(run)
        run.assert_nothing_left()


def test_a_slow_cable_is_no_fault(project: Rig, tmp_path: Path) -> None:
    with Rig(tmp_path / "own", nodes=2) as rig:
        rig_runs.write_project(rig)
        rig_links.slow(rig, rig.nodes[1], "4mbit")
        run_file = rig_runs.write_run(rig, "slow")
        run = rig_runs.over_pdsh(rig, rig.nodes, run_file, *SHORT, *settings(2))
        finish(run)
        speed = [json.loads(line)["time/step"] for line in (run.run_dir / "metrics.jsonl").read_text().splitlines()]
        assert max(speed) > 0.2, "the cable was not slow"
        trials.assert_same(run.run_dir, calm(project, 2))
