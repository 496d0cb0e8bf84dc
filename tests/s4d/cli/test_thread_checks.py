"""What `s4d doctor` says about threads of several ranks."""

from __future__ import annotations

import json

import pytest

from s4d.cli import doctor_system, machine_checks, main
from s4d.cli.doctor_bounded import Facts
from s4d.cli.doctor_system import check_threads


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_system, "available_cores", lambda: tuple(range(8)))
    monkeypatch.setattr(doctor_system, "processor_quota", lambda: None)


@pytest.mark.parametrize(
    ("threads", "ranks", "state", "detail", "fix"),
    [
        (None, 1, "ok", "1 rank x 8 threads on 8 cores", ""),
        ("2", 4, "ok", "4 ranks x 2 threads on 8 cores", ""),
        ("2,1", 4, "ok", "4 ranks x 2 threads on 8 cores", ""),
        ("4", 4, "warning", "4 ranks x 4 threads on 8 cores", "export OMP_NUM_THREADS=2, or start with"),
        ("16", 1, "warning", "1 rank x 16 threads on 8 cores", "export OMP_NUM_THREADS=8"),
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


@pytest.mark.parametrize(
    ("threads", "quota", "state", "detail"),
    [
        ("2", 2.5, "ok", "1 rank x 2 threads on 2 cores (8 allowed, time of 2.5)"),
        ("3", 2.5, "warning", "1 rank x 3 threads on 2 cores"),
        (None, 2.5, "warning", "OMP_NUM_THREADS is not set: 8 threads would share the time of 2.5 cores"),
        (None, 0.5, "warning", "OMP_NUM_THREADS is not set"),
        (None, 64.0, "ok", "1 rank x 8 threads on 8 cores"),
    ],
)
def test_threads_against_the_quota_of_a_container(
    threads: str | None, quota: float, state: str, detail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_system, "processor_quota", lambda: quota)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if threads is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
    check = check_threads(1)
    assert check.state == state and check.detail.startswith(detail)
    assert state == "ok" or f"OMP_NUM_THREADS={max(1, int(quota))}" in check.fix


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
    monkeypatch.setattr(machine_checks, "PARTS", {"threads": machine_checks.PARTS["threads"]})
    monkeypatch.setattr(machine_checks, "gather", lambda probes: Facts())
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("LOCAL_SIZE", raising=False)
    if size is not None:
        monkeypatch.setenv("LOCAL_SIZE", size)
    assert main(["doctor", "--json", *arguments]) == 0
    (check,) = json.loads(capsys.readouterr().out)["checks"]
    assert check["detail"] == f"{ranks} rank{'s' * (ranks > 1)} x 1 threads on 8 cores"
