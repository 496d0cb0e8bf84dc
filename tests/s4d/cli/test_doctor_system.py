"""What `s4d doctor` says about cores, memory, shared memory, disk and open files, on machines made for it."""

from __future__ import annotations

import os
import resource
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from engine.shared_memory import dead_segments
from s4d.cli import doctor_system
from s4d.cli.cgroup_limits import free_memory, processor_quota

GIB = 2**30
Usage = namedtuple("Usage", "total used free")


def write(root: Path, **files: str) -> None:
    """Files by path, with __ for /."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


MEMINFO = f"MemTotal: {64 * 2**20} kB\nMemFree: 1 kB\nMemAvailable: {32 * 2**20} kB\n"


def machine(root: Path, cgroup: str, **files: str) -> Path:
    write(root, proc__meminfo=MEMINFO, **files)
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    return root


def test_a_machine_without_limits(tmp_path: Path) -> None:
    root = machine(tmp_path, "0::/\n")
    assert processor_quota(root) is None
    assert free_memory(root) == (64 * GIB, 32 * GIB)
    assert free_memory(tmp_path / "nothing") == (0, 0)


def test_limits_of_the_group_and_of_those_above_it(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        "0::/job/step\n",
        **{
            "sys__fs__cgroup__job__cpu.max": "150000 100000\n",
            "sys__fs__cgroup__job__step__cpu.max": "max 100000\n",
            "sys__fs__cgroup__job__memory.max": f"{8 * GIB}\n",
            "sys__fs__cgroup__job__memory.current": f"{7 * GIB}\n",
            "sys__fs__cgroup__job__memory.stat": f"anon {4 * GIB}\ninactive_file {2 * GIB}\n",
            "sys__fs__cgroup__job__step__memory.max": "max\n",
            "sys__fs__cgroup__job__step__memory.current": f"{7 * GIB}\n",
        },
    )
    assert processor_quota(root) == 1.5
    assert free_memory(root) == (8 * GIB, 3 * GIB), "pages of files can be freed at once"


def test_limits_by_the_first_version(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        "4:memory:/docker/x\n1:cpu,cpuacct:/docker/x\n",
        **{
            "sys__fs__cgroup__cpu__cpu.cfs_quota_us": "400000\n",
            "sys__fs__cgroup__cpu__cpu.cfs_period_us": "100000\n",
            "sys__fs__cgroup__memory__memory.limit_in_bytes": f"{4 * GIB}\n",
            "sys__fs__cgroup__memory__memory.usage_in_bytes": f"{1 * GIB}\n",
        },
    )
    assert processor_quota(root) == 4.0
    assert free_memory(root) == (4 * GIB, 3 * GIB)
    write(root, **{"sys__fs__cgroup__cpu__cpu.cfs_quota_us": "-1\n"})
    write(root, **{"sys__fs__cgroup__memory__memory.limit_in_bytes": "9223372036854771712\n"})
    assert processor_quota(root) is None
    assert free_memory(root)[0] == 64 * GIB


@pytest.mark.parametrize(("free", "state"), [(2 * GIB, "warning"), (16 * GIB, "ok")])
def test_memory(free: int, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_system, "free_memory", lambda: (32 * GIB, free))
    found = doctor_system.check_memory()
    assert found.state == state and f"{free / GIB:.1f} of 32.0 GiB" in found.detail
    assert ("--memory" in found.fix) == (state != "ok")


@pytest.mark.parametrize(("free", "state", "fix"), [(2**20, "broken", "--shm-size"), (GIB, "ok", "")])
def test_shared_memory(free: int, state: str, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_system, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(2 * GIB, 0, free))
    found = doctor_system.check_shared_memory()
    assert found.state == state and fix in found.fix
    monkeypatch.setattr(doctor_system, "SHARED_MEMORY", tmp_path / "none")
    assert doctor_system.check_shared_memory().state == "broken"


def test_what_dead_programs_left_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left, young, other = (tmp_path / name for name in ("torch_12_left", "nccl-young", "a file of mine"))
    for path in (left, young, other):
        path.write_bytes(bytes(2**20))
    os.utime(left, (0, 0))
    os.utime(other, (0, 0))
    assert dead_segments(tmp_path) == [left]
    monkeypatch.setattr(doctor_system, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(2 * GIB, 0, GIB))
    found = doctor_system.check_shared_memory()
    assert found.state == "warning" and "1 files of programs that are gone, 1 MiB" in found.detail
    assert found.fix == f"rm {left}" and found.facts["left"] == [str(left)]


@pytest.mark.parametrize(("free", "state"), [(GIB, "broken"), (50 * GIB, "ok")])
def test_disk_of_a_run_folder_that_is_not_there_yet(
    free: int, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(100 * GIB, 0, free))
    found = doctor_system.check_disk(tmp_path / "runs" / "first")
    assert found.state == state and found.facts["folder"] == str(tmp_path.resolve())
    assert ("run_dir" in found.fix) == (state != "ok")


def test_a_run_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    found = doctor_system.check_disk(tmp_path)
    assert found.state == "broken" and "cannot be written" in found.detail and "run_dir" in found.fix


def test_a_run_folder_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = doctor_system.check_disk(tmp_path / "file" / "run")
    assert (found.state, found.detail) == ("broken", f"{tmp_path / 'file'}: is not a folder")


def test_caches_of_compiled_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(100 * GIB, 0, 50 * GIB))
    assert doctor_system.check_cache().state == "ok"
    lock = tmp_path / "op" / "lock"
    write(tmp_path, op__lock="")
    os.utime(lock, (0, 0))
    assert doctor_system.check_cache().fix == f"rm {lock}"
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(100 * GIB, 0, 2**20))
    found = doctor_system.check_cache()
    assert found.state == "warning" and found.fix.startswith("export TRITON_CACHE_DIR=")


@pytest.mark.parametrize(
    ("soft", "hard", "state", "fix"),
    [
        (256, 4096, "warning", "ulimit -n 1024"),
        (256, resource.RLIM_INFINITY, "warning", "ulimit -n 1024"),
        (256, 512, "warning", "limits.conf"),
        (4096, 4096, "ok", ""),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, "ok", ""),
    ],
)
def test_open_files(soft: int, hard: int, state: str, fix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (soft, hard))
    found = doctor_system.check_open_files()
    assert found.state == state and fix in found.fix


def test_python(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor_system.check_python().state == "ok"
    monkeypatch.setattr(doctor_system, "OLDEST_PYTHON", (99, 0))
    assert doctor_system.check_python().state == "broken"
