"""Judgements of `s4d doctor` about what a run takes of a machine: cores, memory, shared memory, disk, open files."""

from __future__ import annotations

import os
import resource
import shlex
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path

from engine.shared_memory import FOLDER as SHARED_MEMORY
from engine.shared_memory import dead_segments
from s4d.cli.cgroup_limits import free_memory, processor_quota
from s4d.cli.doctor_agent import place, stale_locks
from s4d.cli.doctor_check import Verdict
from s4d.cli.local_ranks import available_cores
from s4d.cli.out_folder import nearest

GIB = 2**30
OLDEST_PYTHON = (3, 11)
MEMORY_FREE = 4 * GIB
SHARED_MEMORY_FREE = 512 * 2**20
DISK_FREE = 5 * GIB
CACHE_FREE = GIB
# Each data worker and each peer takes some tens.
OPEN_FILES = 1024
OMP = "OMP_NUM_THREADS"


def check_python() -> Verdict:
    """Its version."""
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < OLDEST_PYTHON:
        return Verdict(state="broken", detail=found, fix="use Python 3.11 or newer")
    return Verdict(state="ok", detail=found, facts={"executable": sys.executable})


def check_versions() -> Verdict:
    """Whether all packages that training needs are there and fit."""
    from engine.dependencies import NEEDED, find_unfit

    problems = [line.partition("; ") for line in find_unfit()]
    if not problems:
        return Verdict(state="ok", detail=f"{len(NEEDED)} packages are there and fit")
    detail, fix = ("; ".join(part[place] for part in problems) for place in (0, 2))
    return Verdict(state="broken", detail=detail, fix=fix)


def check_threads(ranks: int) -> Verdict:
    """Whether the threads of the ranks of a run have a core each; GPUs need that as well, for what feeds them."""
    allowed, quota = len(available_cores()), processor_quota()
    cores = max(1, min(allowed, int(quota))) if quota else allowed
    given, threads = os.environ.get(OMP), whole_number(OMP)
    share = max(1, cores // ranks)
    facts = {"ranks": ranks, "threads": threads, "cores": allowed, "quota": quota}
    fix = f"export {OMP}={share}, or start with deepspeed --bind_cores_to_rank (needs numactl)"
    limited = f" ({allowed} allowed, time of {quota:g})" if cores < allowed else ""
    if given is None and ranks > 1:
        # Training divides the cores by itself; numpy, OpenCV and programs that it starts do not.
        detail = f"{OMP} is not set: libraries in each of {ranks} ranks may start {allowed} threads"
    elif given is None and cores < allowed:
        detail = f"{OMP} is not set: {allowed} threads would share the time of {quota:g} cores"
    elif given is not None and threads is None:
        detail = f"{OMP} is {given!r}, which is no number of threads"
    elif threads is not None and threads * ranks > cores:
        detail = f"{_ranks(ranks)} x {threads} threads on {cores} cores{limited}"
        fix = fix if ranks <= cores else f"at most {cores} ranks; {fix}"
    else:
        detail = f"{_ranks(ranks)} x {threads or share} threads on {cores} cores{limited}"
        return Verdict(state="ok", detail=detail, facts=facts)
    return Verdict(state="warning", detail=detail, fix=fix, facts=facts)


def _ranks(count: int) -> str:
    return "1 rank" if count == 1 else f"{count} ranks"


def whole_number(variable: str) -> int | None:
    """A variable's whole number of 1 or more, the first of a list such as OpenMP takes for nested loops, else None."""
    text = os.environ.get(variable, "").partition(",")[0].strip()
    return int(text) if text.isascii() and text.isdigit() and int(text) > 0 else None


def check_memory() -> Verdict:
    """What is free of the machine's memory, or of a container's or job's share."""
    total, free = free_memory()
    facts = {"total_bytes": total, "free_bytes": free}
    detail = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
    if free < MEMORY_FREE:
        fix = "end other programs, or ask for more memory (docker --memory, sbatch --mem)"
        return Verdict(state="warning", detail=detail, fix=fix, facts=facts)
    return Verdict(state="ok", detail=detail, facts=facts)


def check_shared_memory() -> Verdict:
    """Free space of /dev/shm, and what dead programs have left there."""
    if not SHARED_MEMORY.is_dir():
        return Verdict(state="broken", detail="no shared memory", fix="mount -t tmpfs tmpfs /dev/shm")
    usage = shutil.disk_usage(SHARED_MEMORY)
    left = dead_segments(SHARED_MEMORY)
    size = sum(path.stat().st_size for path in left if path.exists())
    facts = {"total_bytes": usage.total, "free_bytes": usage.free, "left": [os.fspath(path) for path in left]}
    detail = f"{usage.free / GIB:.1f} of {usage.total / GIB:.1f} GiB free"
    removal = f"rm {' '.join(shlex.quote(os.fspath(path)) for path in left)}" if left else ""
    if left:
        detail += f"; {len(left)} files of programs that are gone, {size / 2**20:.0f} MiB"
    if usage.free < SHARED_MEMORY_FREE:
        return Verdict(state="broken", detail=detail, fix=removal or "in a container: --shm-size=8g", facts=facts)
    return Verdict(state="warning" if left else "ok", detail=detail, fix=removal, facts=facts)


def check_disk(run_dir: Path | None) -> Verdict:
    """Free space where a run would write."""
    folder = nearest(run_dir or Path.cwd())
    if not folder.is_dir():
        return Verdict(state="broken", detail=f"{folder}: is not a folder", fix="choose another run_dir")
    free = shutil.disk_usage(folder).free
    facts = {"folder": os.fspath(folder.resolve()), "free_bytes": free}
    detail = f"{free / GIB:.1f} GiB free in {folder.resolve()}"
    if not os.access(folder, os.W_OK):
        return Verdict(state="broken", detail=f"{folder}: cannot be written", fix="choose another run_dir", facts=facts)
    if free < DISK_FREE:
        fix = "free at least 5 GiB or choose another run_dir"
        return Verdict(state="broken", detail=detail, fix=fix, facts=facts)
    return Verdict(state="ok", detail=detail, facts=facts)


def check_cache() -> Verdict:
    """Where compiled kernels are kept: room to write, and no lock that a start would wait for."""
    folders = {variable: Path(place(os.fspath(folder))["folder"]) for variable, folder in cache_folders().items()}
    room = {variable: shutil.disk_usage(folder).free for variable, folder in folders.items()}
    facts = {"folders": {name: os.fspath(folder) for name, folder in folders.items()}, "free_bytes": room}
    for variable, folder in folders.items():
        problem = _unfit(folder, room[variable])
        if problem:
            fix = f"export {variable}=FOLDER with room"
            return Verdict(state="warning", detail=problem, fix=fix, facts=facts)
    locks = stale_locks()
    if locks:
        detail = f"{len(locks)} locks of programs that are gone; a start may wait for them"
        return Verdict(state="warning", detail=detail, fix=f"rm {' '.join(map(shlex.quote, locks))}", facts=facts)
    shown = ", ".join(f"{room[name] / GIB:.1f} GiB free in {folder}" for name, folder in folders.items())
    return Verdict(state="ok", detail=shown, facts=facts)


def _unfit(folder: Path, free: int) -> str:
    if not os.access(folder, os.W_OK):
        return f"{folder}: cannot be written"
    return f"{folder}: {free / GIB:.1f} GiB free" if free < CACHE_FREE else ""


def cache_folders() -> dict[str, Path]:
    """Where Triton and torch.compile keep what they have compiled, by the variable that moves it."""
    home = Path(os.environ.get("TRITON_HOME") or Path.home()) / ".triton/cache"
    # As torch names it.
    inductor = Path(tempfile.gettempdir()) / f"torchinductor_{os.environ.get('USER', 'root')}"
    return {
        "TRITON_CACHE_DIR": Path(os.environ.get("TRITON_CACHE_DIR") or home),
        "TORCHINDUCTOR_CACHE_DIR": Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR") or inductor),
    }


def check_open_files() -> Verdict:
    """How many files a process may have open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit, most = (_limit(value) for value in (soft, hard))
    detail = f"{limit} for each process, at most {most}"
    if soft != resource.RLIM_INFINITY and soft < OPEN_FILES:
        can = hard == resource.RLIM_INFINITY or hard >= OPEN_FILES
        fix = f"ulimit -n {OPEN_FILES}" if can else "raise it in limits.conf; in a container: --ulimit nofile=65536"
        return Verdict(state="warning", detail=detail, fix=fix, facts={"soft": soft, "hard": hard})
    return Verdict(state="ok", detail=detail, facts={"soft": soft, "hard": hard})


def _limit(value: int) -> str:
    return "without limit" if value == resource.RLIM_INFINITY else str(value)


@cache
def processor_flags() -> frozenset[str]:
    """What the processor can do, by the kernel's names."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), []))
