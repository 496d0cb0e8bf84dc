"""Scans: every file once, resumed where they stopped, in spite of torn lines and decoders that die."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from s4d.data.manifest import ManifestRow
from s4d.data.manifest_io import Manifest, write_manifest
from s4d.data.scan.pool import Lost, run_tasks
from s4d.data.scan.run import scan_manifest
from s4d.data.scan.scan_file import ScanWriter, read_scan
from s4d.errors import DataError, UsageError

Scene = Callable[..., list[np.ndarray]]
Encode = Callable[..., bytes]


@pytest.fixture
def manifest(tmp_path: Path, make_scene: Scene, encode_still: Encode) -> Path:
    """Six stills, each in two folds."""
    rows = []
    for index in range(6):
        (tmp_path / f"{index}.jpg").write_bytes(encode_still(make_scene(index, 1)[0], "JPEG"))
        rows += [
            ManifestRow(
                sample_id=str(index), path=f"{index}.jpg", kind="image", dataset="made", split="train", fold=fold
            )
            for fold in (1, 2)
        ]
    path = tmp_path / "made.csv"
    write_manifest(Manifest(rows=tuple(rows), root=tmp_path, dataset="made", classes=(), fingerprint=""), path)
    return path


def test_a_second_scan_looks_at_new_and_changed_files_only(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "scan.jsonl"
    calls: list[tuple[int, int]] = []
    first = scan_manifest(manifest, out, workers=1, progress=lambda done, count: calls.append((done, count)))
    assert (first.media, first.known, first.scanned, first.failed) == (6, 0, 6, ())
    assert calls == [(count, 6) for count in range(1, 7)]
    assert len(out.read_text().splitlines()) == 6
    again = scan_manifest(manifest, out, workers=1)
    assert (again.known, again.scanned) == (6, 0)
    content = (tmp_path / "3.jpg").read_bytes()
    (tmp_path / "3.jpg").write_bytes(content[:-100])
    (tmp_path / "4.jpg").write_bytes((tmp_path / "5.jpg").read_bytes())
    third = scan_manifest(manifest, out, workers=1)
    assert (third.known, third.scanned) == (4, 2)
    assert [probe.path for probe in third.failed] == ["3.jpg"]
    assert sorted(read_scan(out).changed) == ["3.jpg", "4.jpg"]
    fourth = scan_manifest(manifest, out, workers=1)
    assert (fourth.scanned, [probe.path for probe in fourth.failed]) == (1, ["3.jpg"])
    quick = scan_manifest(manifest, out, workers=1, quick=True)
    assert (quick.scanned, [probe.path for probe in quick.failed]) == (0, ["3.jpg"])


def test_an_error_is_looked_at_again(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "scan.jsonl"
    scan_manifest(manifest, out, workers=1)
    with ScanWriter(out) as writer:
        writer.write(replace(read_scan(out).probes["2.jpg"], sha256="", error="2.jpg: cannot decode: over 60 s"))
    again = scan_manifest(manifest, out, workers=1)
    assert (again.known, again.scanned, again.failed) == (5, 1, ())
    assert read_scan(out).probes["2.jpg"].error is None


def test_an_interrupted_scan_goes_on(manifest: Path, tmp_path: Path) -> None:
    def interrupt(done: int, count: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    out = tmp_path / "scan.jsonl"
    with pytest.raises(KeyboardInterrupt):
        scan_manifest(manifest, out, workers=2, progress=interrupt)
    assert multiprocessing.active_children() == []
    rest = scan_manifest(manifest, out, workers=1)
    assert (rest.known, rest.scanned) == (2, 4)
    assert len(read_scan(out).probes) == len(out.read_text().splitlines()) == 6


def test_a_quick_scan_does_not_stand_for_a_full_one(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "scan.jsonl"
    scan_manifest(manifest, out, workers=1, quick=True)
    assert scan_manifest(manifest, out, workers=1).scanned == 6
    assert scan_manifest(manifest, out, workers=1, quick=True).scanned == 0
    assert not read_scan(out).changed


def test_a_torn_last_line_is_dropped(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "scan.jsonl"
    scan_manifest(manifest, out, workers=1)
    whole = out.read_bytes()
    out.write_bytes(whole[:-40])
    assert len(read_scan(out).probes) == 5
    assert scan_manifest(manifest, out, workers=1).scanned == 1
    assert sorted(read_scan(out).probes) == [f"{index}.jpg" for index in range(6)]
    assert [json.loads(line)["path"] for line in out.read_text().splitlines()]


def test_a_damaged_line_is_named(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "scan.jsonl"
    scan_manifest(manifest, out, workers=1)
    lines = out.read_text().splitlines(keepends=True)
    for damage in ("{}\n", "[1]\n", "no json\n", lines[0].replace('"kind"', '"sort"')):
        out.write_text("".join([lines[0], damage, *lines[1:]]))
        with pytest.raises(DataError, match=r"scan\.jsonl: line 2: "):
            read_scan(out)


def test_two_scans_do_not_share_a_file(tmp_path: Path) -> None:
    with ScanWriter(tmp_path / "scan.jsonl"), pytest.raises(UsageError, match="another scan"):
        ScanWriter(tmp_path / "scan.jsonl")


def test_a_missing_scan_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl"):
        read_scan(tmp_path / "none.jsonl")


def no_limit(task: object) -> float:
    return 60.0


def test_a_crash_costs_its_own_task() -> None:
    tasks = [0, int(signal.SIGSEGV), 0]
    outcomes = list(run_tasks(signal.raise_signal, tasks, workers=2, seconds=no_limit))
    assert sorted(task for task, _ in outcomes) == sorted(tasks)
    lost = [outcome for _, outcome in outcomes if isinstance(outcome, Lost)]
    assert [outcome.reason for outcome in lost] == ["the decoder crashed (SIGSEGV)"]


def test_an_exit_and_a_hang_are_named() -> None:
    assert list(run_tasks(os._exit, [3], workers=1, seconds=no_limit)) == [
        (3, Lost("the decoder crashed (exit status 3)"))
    ]
    outcomes = list(run_tasks(time.sleep, [0.0, 300.0], workers=2, seconds=lambda task: 0.5 if task else 60.0))
    assert dict(outcomes) == {0.0: None, 300.0: Lost("the decoder took too long and was stopped")}


def test_workers_that_cannot_start_are_no_fault_of_a_file(tmp_path: Path) -> None:
    program = (
        "from s4d.data.scan.pool import run_tasks\n"
        "print(list(run_tasks(abs, [-1, -2], workers=1, seconds=lambda task: 60.0)))\n"
    )
    # A program read from a pipe cannot be imported again by the processes that it spawns.
    done = subprocess.run(
        [sys.executable, "-"], input=program, capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False
    )
    assert done.returncode == 1
    assert "a decoding process ended before its first task (exit status 1)" in done.stderr


def test_memory_is_limited() -> None:
    ((_, outcome),) = run_tasks(bytearray, [8 << 30], workers=1, seconds=no_limit)
    assert outcome == Lost("the decoder crashed (exit status 1)")


def test_results_come_from_every_worker() -> None:
    outcomes = list(run_tasks(abs, range(-20, 0), workers=2, seconds=no_limit))
    assert sorted(outcomes) == [(task, -task) for task in range(-20, 0)]
