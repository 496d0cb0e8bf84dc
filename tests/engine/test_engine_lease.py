"""The lease of a run folder: one owner, seen from every machine, taken over only when it is dead."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import engine.lease
from engine.errors import StateRefusedError
from engine.lease import Lease, describe_process, process_start


@pytest.fixture
def leases(tmp_path: Path) -> Iterator[Any]:
    made: list[Lease] = []

    def make(host: str | None = None, silence: float = 1.0) -> Lease:
        lease = Lease(tmp_path, silence_seconds=silence)
        if host is not None:
            lease._me |= {"host": host, "boot": f"boot of {host}"}
        made.append(lease)
        return lease

    yield make
    for lease in made:
        lease.release()


def file_of(folder: Path) -> Path:
    return max(folder.glob(".lease-*"))


def write_lease(folder: Path, generation: int, **changes: Any) -> None:
    owner = {**describe_process(), **changes}
    (folder / f".lease-{generation:08d}").write_text(json.dumps(owner))


def test_living_owner_is_named_at_once(tmp_path: Path, leases: Any) -> None:
    leases().take()
    began = time.monotonic()
    with pytest.raises(StateRefusedError, match=rf"in use by process {os.getpid()} on {os.uname().nodename} since 20"):
        leases().take()
    assert time.monotonic() - began < 1


def test_released_lease_is_free(tmp_path: Path, leases: Any) -> None:
    first = leases()
    first.take()
    first.release()
    leases("elsewhere").take()
    assert [path.name for path in tmp_path.iterdir()] == [".lease-00000002"]


def test_dead_owner_is_taken_over(tmp_path: Path, leases: Any) -> None:
    code = f"import sys; sys.path.insert(0, {str(Path.cwd())!r})\nfrom pathlib import Path\nimport engine.lease\n"
    code += f"engine.lease.Lease(Path({str(tmp_path)!r})).take()\nimport os; os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    began = time.monotonic()
    leases(silence=60.0).take()
    assert time.monotonic() - began < 1


def test_reused_process_number_is_no_owner(tmp_path: Path, leases: Any) -> None:
    write_lease(tmp_path, 3, process_start="1")
    leases(silence=60.0).take()
    assert file_of(tmp_path).name == ".lease-00000004"


def test_zombie_is_dead() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE)
    try:
        assert process_start(child.pid)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert process_start(child.pid) is None
    finally:
        child.wait()
    assert process_start(child.pid) is None


def test_owner_elsewhere_is_refused_while_its_lease_changes(tmp_path: Path, leases: Any) -> None:
    leases("elsewhere").take()
    with pytest.raises(StateRefusedError, match=r"in use by process \d+ on elsewhere"):
        leases(silence=30.0).take()


@pytest.mark.parametrize("content", ["silent", "empty", "damaged"])
def test_silent_lease_is_taken_over(tmp_path: Path, leases: Any, content: str) -> None:
    # Written in the past or the future: clocks do not count.
    write_lease(tmp_path, 1, host="elsewhere", since="2099-01-01T00:00:00+00:00")
    if content != "silent":
        file_of(tmp_path).write_bytes(b"" if content == "empty" else b"\0\xff{")
    os.utime(file_of(tmp_path), (4e9, 4e9))
    began = time.monotonic()
    leases(silence=0.5).take()
    assert time.monotonic() - began >= 0.5


@pytest.mark.parametrize("before", ["nothing", "dead", "silent"])
def test_of_many_at_once_one_wins(tmp_path: Path, leases: Any, before: str) -> None:
    if before != "nothing":
        write_lease(tmp_path, 5, **({"process_start": "1"} if before == "dead" else {"host": "elsewhere"}))
    contenders = [leases(f"host{number}", silence=1.5) for number in range(6)]
    refused: list[StateRefusedError] = []
    barrier = threading.Barrier(len(contenders))

    def contend(lease: Lease) -> None:
        barrier.wait()
        try:
            lease.take()
        except StateRefusedError as error:
            refused.append(error)

    threads = [threading.Thread(target=contend, args=(lease,)) for lease in contenders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    owner = json.loads(file_of(tmp_path).read_text())["host"]
    assert len(refused) == len(contenders) - 1
    assert all(f"on {owner} since" in str(error) for error in refused)


def test_owner_that_was_frozen_learns_of_its_loss(tmp_path: Path, leases: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = leases("elsewhere")
    first.take()
    first.check()
    # Nothing runs in a frozen process: no renewal, and nothing is known of what happened meanwhile.
    first._ended.set()
    leases(silence=0.3).take()
    first._ended.clear()
    monkeypatch.setattr(engine.lease, "FRESH_SECONDS", 0.0)
    with pytest.raises(StateRefusedError, match=f"taken over by process {os.getpid()} on {os.uname().nodename}"):
        first.check()
    assert json.loads(file_of(tmp_path).read_text())["host"] == os.uname().nodename


def test_removed_folder_is_a_loss(tmp_path: Path, leases: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = leases()
    lease.take()
    file_of(tmp_path).unlink()
    monkeypatch.setattr(engine.lease, "FRESH_SECONDS", 0.0)
    with pytest.raises(StateRefusedError, match="taken over by another process"):
        lease.check()


def test_late_contender_steps_back(tmp_path: Path, leases: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It saw generation 1 dead; before it acts, others have taken 2, left it, and taken 3."""
    write_lease(tmp_path, 1, process_start="1")
    seen = engine.lease._newest(tmp_path)
    write_lease(tmp_path, 3)
    (tmp_path / ".lease-00000001").unlink()
    answers = iter([seen])
    real = engine.lease._newest
    monkeypatch.setattr(engine.lease, "_newest", lambda folder: next(answers, None) or real(folder))
    with pytest.raises(StateRefusedError, match="in use by"):
        leases().take()
    assert [path.name for path in tmp_path.iterdir()] == [".lease-00000003"]
