"""What `s4d doctor` says about threads of several ranks."""

from __future__ import annotations

import json

import pytest

from s4d.cli import machine_checks, main
from s4d.cli.machine_checks import check_threads


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_checks, "available_cores", lambda: tuple(range(8)))


@pytest.mark.parametrize(
    ("threads", "ranks", "state", "detail", "fix"),
    [
        (None, 1, "ok", "1 ranks x 8 threads on 8 cores", ""),
        ("2", 4, "ok", "4 ranks x 2 threads on 8 cores", ""),
        ("2,1", 4, "ok", "4 ranks x 2 threads on 8 cores", ""),
        ("4", 4, "warning", "4 ranks x 4 threads on 8 cores", "export OMP_NUM_THREADS=2, or start with"),
        ("16", 1, "warning", "1 ranks x 16 threads on 8 cores", "export OMP_NUM_THREADS=8"),
        (None, 2, "warning", "OMP_NUM_THREADS is not set: libraries in each of 2 ranks", "export OMP_NUM_THREADS=4"),
        ("1", 9, "warning", "9 ranks x 1 threads on 8 cores", "at most 8 ranks; export OMP_NUM_THREADS=1"),
        ("many", 2, "warning", "OMP_NUM_THREADS is 'many', which is no number", "export OMP_NUM_THREADS=4"),
    ],
)
def test_threads_against_cores(
    threads: str | None, ranks: int, state: str, detail: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if threads is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
    check = check_threads(ranks)
    assert check.state == state and check.detail.startswith(detail)
    assert check.fix.startswith(fix) and bool(check.fix) == (state == "warning")
    assert check.passes, "a warning fails no machine"


@pytest.mark.parametrize(
    ("arguments", "size", "ranks"), [([], None, 1), ([], "4", 4), (["--ranks", "2"], "4", 2), ([], "x", 1)]
)
def test_ranks_are_given_or_those_of_a_launcher(
    arguments: list[str],
    size: str | None,
    ranks: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(machine_checks, "CHECKS", {})
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("LOCAL_SIZE", raising=False)
    if size is not None:
        monkeypatch.setenv("LOCAL_SIZE", size)
    assert main(["doctor", "--json", *arguments]) == 0
    (check,) = json.loads(capsys.readouterr().out)["checks"]
    assert check["detail"] == f"{ranks} ranks x 1 threads on 8 cores"
