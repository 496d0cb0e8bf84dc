"""How a run over two nodes begins and ends: refused where the nodes differ, a record only where it is done."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import rig_links
import rig_runs
from rig import Rig
from rig_node import ROOT

pytestmark = [pytest.mark.launch, pytest.mark.multinode, pytest.mark.deep]

JOIN_SECONDS = 90.0
SHORT = ("engine.steps=2", "engine.save_every=2")


@pytest.fixture(scope="module")
def project(rig: Rig) -> Iterator[Rig]:
    rig_runs.write_project(rig)
    yield rig


def refused(run: rig_runs.Run, status: int) -> str:
    """The one line of a run that must not start; nothing is left of it."""
    assert set(run.wait()) == {status}, run.out
    run.assert_nothing_left()
    assert len(run.errors) == 1 and "Traceback" not in run.out, run.out
    return run.errors[0]


def test_nodes_with_another_environment_are_refused(project: Rig) -> None:
    run_file = rig_runs.write_run(project, "threads")
    run = rig_runs.without_ssh(
        project, project.nodes[:2], run_file, *SHORT, environments={"n1": {"OMP_NUM_THREADS": "2"}}
    )
    line = refused(run, 2)
    assert line.startswith("node n1 differs: OMP_NUM_THREADS of rank 1 there is 2, of rank 0 on n0 1")
    assert not run.run_dir.exists()


def test_nodes_with_other_sources_are_refused(project: Rig, tmp_path: Path) -> None:
    node, place = project.nodes[1], str(ROOT / "engine/ema.py")
    (project.shared / "other.py").write_text((ROOT / "engine/ema.py").read_text() + "\n")
    run_file = rig_runs.write_run(project, "sources")
    mounted = node.start(["mount", "--bind", "/mnt/shared/other.py", place], environment={}, out=tmp_path / "out")
    assert mounted.wait(20) == 0
    try:
        line = refused(rig_runs.over_pdsh(project, project.nodes[:2], run_file, *SHORT), 2)
    finally:
        assert node.start(["umount", place], environment={}, out=tmp_path / "out").wait(20) == 0
    assert line.startswith("node n1 differs: the engine's sources of rank 1 there is ")


def test_a_run_folder_of_each_node_is_refused(project: Rig) -> None:
    run_file = rig_runs.write_run(project, "apart", run_dir=Path("/mnt/local/apart"))
    line = refused(rig_runs.over_pdsh(project, project.nodes[:2], run_file, *SHORT), 1)
    assert line.startswith("rank 1 of 2: run_dir: /mnt/local/apart: node n1 (rank 1) does not see what rank 0 writes")
    for node in project.nodes[:2]:
        assert not node.path("/mnt/local/apart").exists()


def test_only_a_run_that_is_done_has_a_finish_record(project: Rig) -> None:
    run_file = rig_runs.write_run(project, "record")
    run = rig_runs.over_pdsh(project, project.nodes[:2], run_file, *SHORT)
    record = run.run_dir / "finished.json"
    run.until(lambda: run.logged() >= 1)
    assert not record.exists() or run.logged() >= 2
    assert run.wait() == [0], run.out
    assert json.loads(record.read_text()) == {"step": 2, "world_size": 2}


def test_a_node_that_never_comes_is_waited_for_no_longer_than_allowed(project: Rig, tmp_path: Path) -> None:
    with Rig(tmp_path / "own", nodes=2) as rig:
        rig_runs.write_project(rig)
        rig_links.cut(rig, rig.nodes[1])
        run_file = rig_runs.write_run(rig, "alone", engine={"phase_seconds": {"start": 20}})
        run = rig_runs.over_pdsh(rig, rig.nodes, run_file)
        run.gone(JOIN_SECONDS)
        assert run.statuses()[0] not in (0, None) and not run.run_dir.exists()
        assert len(run.errors) == 1 and "Traceback" not in run.out, run.out
