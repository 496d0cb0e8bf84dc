"""Parts of the GPU report: which are chosen, how long they may take, and how calls add up to one document."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from s4d.cli import bench_report, main
from s4d.cli.bench_report import GROUP_SECONDS, GROUPS, PARTS, Part, chosen_parts, part_command
from s4d.cli.bounded_command import KILLED, OUT_OF_TIME, members, run_bounded, source_environment
from s4d.errors import UsageError

SLEEPER = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], {own})
print(child.pid, flush=True)
time.sleep(60)
"""


def names(only: str | None, skip: str | None = None) -> list[str]:
    return [part.name for part in chosen_parts(only, skip)]


def test_parts_and_groups_are_chosen_by_name() -> None:
    assert names(None) == [part.name for part in PARTS]
    assert names("pipeline") == ["pipeline"]
    assert names("tests,steps")[:2] == ["tests", "step"]
    assert names("kernels", "attention,tests") == ["moae", "reconstruction", "patch"]


@pytest.mark.parametrize(
    ("only", "skip", "expected"),
    [
        ("nope", None, "--only: expected some of attention, kernels,.*got 'nope'"),
        (None, "patc", "--skip: expected some of .*got 'patc'"),
        ("steps", "steps", "no part is left"),
    ],
)
def test_names_that_choose_nothing_are_refused(only: str | None, skip: str | None, expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        chosen_parts(only, skip)


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_fits_into_a_command_of_ten_minutes(group: str) -> None:
    assert sum(part.limit for part in PARTS if part.group == group) <= GROUP_SECONDS


def test_the_pipeline_ends_by_itself_before_it_is_ended() -> None:
    (part,) = chosen_parts("pipeline", None)
    command = part_command(part, "cuda", Path("out.json"), [], part.limit)
    assert command[3:7] == ["bench", "pipeline", "--device", "cuda"]
    assert float(command[command.index("--limit") + 1]) < part.limit
    assert "tiny" not in command
    assert "tiny" in part_command(part, "cpu", Path("out.json"), ["--cases", "tiny"], part.limit)


def report(folder: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    status = main(["bench", "gpu-report", "--device", "cpu", "--cases", "tiny", "--out", str(folder), *arguments])
    document: dict[str, Any] = json.loads((folder / "gpu-report.json").read_text(encoding="utf-8"))
    return status, document


def test_calls_for_some_parts_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = tuple(Part(name=name, group=name[0], limit=60) for name in ("a1", "a2", "b1"))
    monkeypatch.setattr(bench_report, "PARTS", parts)
    status = {"a1": 0, "a2": 3, "b1": 0}

    def command(part: Part, *_: object) -> list[str]:
        return [sys.executable, "-c", f"import sys; print('ran'); sys.exit({status[part.name]})"]

    monkeypatch.setattr(bench_report, "part_command", command)
    code, document = report(tmp_path, "--only", "b")
    assert code == 0 and document["missing"] == ["a1", "a2"] and not document["ok"]
    first = document["parts"][0]
    code, document = report(tmp_path, "--only", "a")
    assert code == 1 and [part["state"] for part in document["parts"]] == ["passed", "failed with status 3", "passed"]
    assert document["parts"][2] == first and document["missing"] == []
    status["a2"] = 0
    code, document = report(tmp_path, "--only", "a2")
    assert code == 0 and document["ok"]
    assert all(part["commit"] and part["tail"] == "ran\n" for part in document["parts"])


def test_results_of_another_machine_are_not_added_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        bench_report, "PARTS", (Part(name="a", group="a", limit=60), Part(name="b", group="b", limit=60))
    )
    monkeypatch.setattr(bench_report, "part_command", lambda *_: [sys.executable, "-c", ""])
    report(tmp_path, "--only", "a")
    path = tmp_path / "gpu-report.json"
    text = json.loads(path.read_text())
    path.write_text(json.dumps(text | {"machine": {"slug": "another"}}))
    assert report(tmp_path, "--only", "b")[1]["missing"] == ["a"]
    path.write_text("{}")
    assert (
        main(["bench", "gpu-report", "--device", "cpu", "--cases", "tiny", "--out", str(tmp_path), "--only", "b"]) == 1
    )


def run(tmp_path: Path, code: str, **options: Any) -> int | str:
    settings = {"limit": 60.0, "log": tmp_path / "log", "environment": source_environment(), "cwd": tmp_path}
    return run_bounded([sys.executable, "-c", code], **(settings | options))


def test_a_command_keeps_its_status_and_what_it_said(tmp_path: Path) -> None:
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)"
    assert run(tmp_path, code) == 7
    assert sorted((tmp_path / "log").read_text().split()) == ["err", "out"]
    assert run(tmp_path, code, out=tmp_path / "out") == 7
    assert ((tmp_path / "log").read_text(), (tmp_path / "out").read_text()) == ("err\n", "out\n")


@pytest.mark.parametrize("nested", [False, True], ids=["same group", "group of its own"])
def test_nothing_outlives_a_killed_command(tmp_path: Path, nested: bool) -> None:
    log = tmp_path / "log"
    code = SLEEPER.format(own="process_group=0" if nested else "")
    began = time.monotonic()
    assert run(tmp_path, code, kill_when=lambda: b"\n" in log.read_bytes(), new_session=nested) == KILLED
    assert time.monotonic() - began < 50, "it was waited for"
    child = int(log.read_text())
    assert not [each for each in members(child) if each == child]
    assert run(tmp_path, "import time; time.sleep(60)", limit=0.3) == OUT_OF_TIME
