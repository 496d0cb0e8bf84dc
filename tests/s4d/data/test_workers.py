"""Worker processes end with their iterator or a killed parent, may be lost on the way, and pass errors on."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from s4d.data.workers import in_order
from s4d.errors import DataError, UsageError

ITEMS = """
import ctypes, os, re, signal, time
from pathlib import Path
import torch
from s4d.data.buffers import pixel_buffer
from s4d.data.media import reading
from s4d.errors import DataError, UsageError

class Squares:
    def __getitem__(self, index):
        if index == 10:
            raise UsageError("ten: is too much")
        return torch.tensor(index**2), torch.full((1 << 17,), index**2)

class Fatal:
    def __getitem__(self, index):
        if index == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return index

class Process:
    def __getitem__(self, index):
        return os.getpid()

class Bug:
    def __getitem__(self, index):
        return {}["missing"]

DEEDS = {
    "ends": lambda: os._exit(0),
    "crashes": lambda: ctypes.string_at(0),
    "is_killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "holds_the_lock": lambda: re.match("(a+)+$", "a" * 60 + "b"),
    "is_stopped": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "takes_memory": lambda: bytearray(5 << 30),
}

class Files:
    \"\"\"Item i has the number of file i in its pixels, of file i + 1 where that is unreadable.\"\"\"

    def __init__(self, names, marker=None):
        self.names, self.marker = names, marker

    def __getitem__(self, index):
        pixels, skipped = pixel_buffer((1 << 17,)), []
        for number in (index, index + 1):
            name = self.names[number]
            try:
                with reading(Path(name)):
                    if name in DEEDS and not (self.marker and self.marker.exists()):
                        if self.marker:
                            self.marker.touch()
                        DEEDS[name]()
                    pixels[:] = number
                return pixels, skipped
            except DataError as error:
                skipped.append(str(error))
        raise AssertionError

"""
SCRIPT = """
import time
from worker_items import Process
from s4d.data.workers import in_order

if __name__ != "__main__":
    raise ImportError("workers must not run the entry script")
stream = in_order(Process(), range(1000), 2)
print(next(stream), next(stream), flush=True)
time.sleep({seconds})
"""


@pytest.fixture
def items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module that worker processes can import too."""
    (tmp_path / "worker_items.py").write_text(ITEMS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "worker_items", raising=False)
    return importlib.import_module("worker_items")


def shared_memory(pids: set[int]) -> set[str]:
    """Named shared memory that processes map; other processes of the machine have no say."""
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    return {line.split(maxsplit=5)[5] for line in lines if "/dev/shm/" in line and not line.endswith("(deleted)")}


def wait_until(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_results_come_in_order(items: types.ModuleType, workers: int) -> None:
    results = list(in_order(items.Squares(), range(3, 10), workers))
    assert [int(small) for small, _ in results] == [i**2 for i in range(3, 10)]
    assert all(bool((large == small).all()) for small, large in results)


def test_tensors_may_be_written_to_and_have_no_name_in_shared_memory(items: types.ModuleType) -> None:
    stream = in_order(items.Squares(), range(3), 1)
    small, large = next(stream)
    small += 1
    large += 1
    assert int(large[0]) == 1
    assert not any("torch" in name for name in shared_memory({os.getpid()}))
    stream.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_users_error_keeps_its_type_and_line(items: types.ModuleType, workers: int) -> None:
    with pytest.raises(UsageError, match=r"^ten: is too much$"):
        list(in_order(items.Squares(), [9, 10], workers))


def test_a_killed_worker_is_reported(items: types.ModuleType) -> None:
    with pytest.raises(DataError, match=r"data\.workers: a decoding process died"):
        list(in_order(items.Fatal(), range(5), 1))


def test_a_fault_of_the_program_keeps_its_traceback(items: types.ModuleType) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*KeyError: 'missing'"):
        list(in_order(items.Bug(), range(2), 1))


REASONS = {
    "ends": "decoding ended the process (status 0)",
    "crashes": "decoding ended the process (SIGSEGV)",
    "is_killed": "decoding ended the process (SIGKILL)",
    "holds_the_lock": "decoding took more than 0.5 s",
    "is_stopped": "decoding took more than 0.5 s",
    "takes_memory": "decoding needs more than 1024 MiB of memory",
}


@pytest.mark.parametrize(("deed", "workers"), [*((deed, 2) for deed in REASONS), ("crashes", 1)])
def test_a_file_that_costs_two_processes_is_refused_and_nothing_else_changes(
    items: types.ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    deed: str,
    workers: int,
) -> None:
    monkeypatch.setattr("s4d.data.workers.SECONDS_PER_FILE", 0.5)
    names = [str(number) for number in range(13)]
    names[4] = deed
    results = list(in_order(items.Files(names), range(12), workers))
    assert [set(pixels.tolist()) for pixels, _ in results] == [{5 if i == 4 else i} for i in range(12)]
    expected = f"{deed}: cannot decode: {REASONS[deed]}"
    assert [skipped for _, skipped in results] == [[expected] if i == 4 else [] for i in range(12)]
    assert [record.message for record in caplog.records if deed in record.message] == [
        f"{deed}: {REASONS[deed]}; trying once more in a new process"
    ]
    # A later start, as after a resume, comes to the same.
    resumed = list(in_order(items.Files(names), range(3, 6), workers))
    assert [pixels[0].item() for pixels, _ in resumed] == [3, 5, 5]


def test_one_lost_process_costs_nothing(items: types.ModuleType, tmp_path: Path) -> None:
    names = [str(number) for number in range(9)]
    names[2] = "is_killed"
    results = list(in_order(items.Files(names, tmp_path / "done"), range(8), 2))
    assert [(pixels[0].item(), skipped) for pixels, skipped in results] == [(i, []) for i in range(8)]


def test_workers_end_with_their_iterator(items: types.ModuleType) -> None:
    stream = in_order(items.Process(), range(100), 2)
    pids = {next(stream), next(stream)}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert not shared_memory(pids)
    stream.close()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "workers outlive their iterator")


def test_a_launchers_sigterm_leaves_workers_to_the_training_process(items: types.ModuleType) -> None:
    stream = in_order(items.Process(), range(100), 2)
    pids = {next(stream), next(stream)}
    # Field 4 of a process's stat is its parent: the fork server.
    servers = {int(Path(f"/proc/{pid}/stat").read_text().split()[3]) for pid in pids}
    for pid in pids | servers:
        os.kill(pid, signal.SIGTERM)
    assert len(list(stream)) == 98
    assert os.getpid() not in servers


def test_workers_end_with_a_killed_process(items: types.ModuleType, tmp_path: Path) -> None:
    script = tmp_path / "entry.py"
    script.write_text(SCRIPT.format(seconds=100))
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pids = {int(pid) for pid in process.stdout.readline().split()}
    assert len(pids) == 2
    assert not shared_memory(pids)
    process.kill()
    process.wait()
    process.stdout.close()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "workers outlive a killed process")


def test_a_process_may_end_without_closing_its_iterator(items: types.ModuleType, tmp_path: Path) -> None:
    script = tmp_path / "entry.py"
    script.write_text(SCRIPT.format(seconds=0))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    pids = {int(pid) for pid in done.stdout.split()}
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "workers outlive their process")
