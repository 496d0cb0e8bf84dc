"""The single checks behind `s4d doctor`, one function each, listed in one table."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from s4d.cli.local_ranks import available_cores

SHARED_MEMORY = Path("/dev/shm")
SHARED_MEMORY_FREE = 512 * 2**20
DISK_FREE = 5 * 2**30
GIB = 2**30
VERSIONS = "versions"
THREADS = "threads"
OMP = "OMP_NUM_THREADS"
# FFmpeg 8, whose demuxers stood the damage that is tried on them here.
OLDEST_CODECS = (62,)


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """Outcome of one check; an optional part that is absent, or a warning, does not fail the machine."""

    name: str
    state: Literal["ok", "absent", "broken", "warning"]
    detail: str
    fix: str = ""
    needed: bool = True

    @property
    def passes(self) -> bool:
        return self.state == "ok" or not self.needed

    def as_dict(self) -> dict[str, object]:
        return {**asdict(self), "passes": self.passes}


def run_checks(ranks: int | None = None) -> list[Check]:
    """Every check, in the order of `CHECKS`; a check that raises is reported as broken.

    `ranks` of a run on this machine; None: as a launcher's environment says.
    """
    checks = [_guarded(name, function) for name, function in CHECKS.items()]
    ranks = ranks or _number("LOCAL_SIZE") or 1
    return [*checks, _guarded(THREADS, lambda: check_threads(ranks))]


def _guarded(name: str, function: Callable[[], Check]) -> Check:
    try:
        return function()
    except Exception as error:
        return Check(name=name, state="broken", detail=f"{type(error).__name__}: {error}", fix="reinstall: make env")


def _python() -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    state: Literal["ok", "broken"] = "ok" if sys.version_info >= (3, 11) else "broken"
    return Check(name="python", state=state, detail=found, fix="" if state == "ok" else "use Python 3.11 or newer")


def _versions() -> Check:
    from engine.dependencies import NEEDED, find_unfit

    problems = [line.partition("; ") for line in find_unfit()]
    if not problems:
        return Check(name=VERSIONS, state="ok", detail=f"{len(NEEDED)} packages are new enough")
    detail, fix = ("; ".join(part[place] for part in problems) for place in (0, 2))
    return Check(name=VERSIONS, state="broken", detail=detail, fix=fix)


def _torch() -> Check:
    import torch

    devices = torch.cuda.device_count()
    names = ", ".join(torch.cuda.get_device_name(index) for index in range(devices)) or "no GPU, runs on the CPU"
    return Check(name="torch", state="ok", detail=f"{torch.__version__}; {names}; {torch.get_num_threads()} threads")


def _deepspeed() -> Check:
    if importlib.util.find_spec("deepspeed") is None:  # found, not imported: importing it takes seconds
        return Check(name="deepspeed", state="absent", detail="not installed", fix="make env")
    return Check(name="deepspeed", state="ok", detail=version("deepspeed"))


def _native() -> Check:
    from kernels import native

    usable, reason = native.status()
    if usable:
        missing = [f"no {part}: {why}" for part, why in native.parts().items() if why is not None]
        return Check(name="native library", state="ok", detail="; ".join(["loaded", *missing]), needed=False)
    fix = "install a C++ compiler, then: make native"
    return Check(name="native library", state="absent", detail=reason, fix=fix, needed=False)


def _video() -> Check:
    import av

    codecs = ".".join(map(str, av.library_versions["libavcodec"]))
    if av.library_versions["libavcodec"] < OLDEST_CODECS:
        oldest = ".".join(map(str, OLDEST_CODECS))
        detail = f"{av.__version__}: libavcodec {codecs}, at least {oldest} is needed"
        return Check(name="PyAV", state="broken", detail=detail, fix="the wheel of PyAV brings its own: pip install av")
    if "h264" not in av.codecs_available:
        return Check(name="PyAV", state="broken", detail=f"{av.__version__}: no H.264 decoder", fix="pip install av")
    return Check(name="PyAV", state="ok", detail=f"{av.__version__}, libavcodec {codecs}")


def _optional(package: str, module: str, fix: str) -> Callable[[], Check]:
    """A check for a package that serves only machines with a GPU."""

    def check() -> Check:
        try:
            found = version(package)
        except PackageNotFoundError:
            return Check(name=package, state="absent", detail="not installed", fix=fix, needed=False)
        try:
            importlib.import_module(module)
        except Exception as error:
            detail = f"{found} does not import: {error}"
            return Check(name=package, state="broken", detail=detail, fix=fix, needed=False)
        return Check(name=package, state="ok", detail=found, needed=False)

    return check


def _shared_memory() -> Check:
    if not SHARED_MEMORY.is_dir():
        return Check(name="/dev/shm", state="broken", detail="no shared memory", fix="mount a tmpfs at /dev/shm")
    usage = shutil.disk_usage(SHARED_MEMORY)
    detail = f"{usage.free / GIB:.1f} of {usage.total / GIB:.1f} GiB free"
    if usage.free < SHARED_MEMORY_FREE:
        fix = "remove what dead runs left there; in a container: --shm-size=8g"
        return Check(name="/dev/shm", state="broken", detail=detail, fix=fix)
    return Check(name="/dev/shm", state="ok", detail=detail)


def _disk() -> Check:
    free = shutil.disk_usage(os.getcwd()).free
    detail = f"{free / GIB:.1f} GiB free here"
    if free < DISK_FREE:
        return Check(name="disk", state="broken", detail=detail, fix="free at least 5 GiB or choose another run_dir")
    return Check(name="disk", state="ok", detail=detail)


def check_threads(ranks: int) -> Check:
    """Whether the threads of the ranks of a run have a core each; GPUs need that as well, for what feeds them."""
    cores = len(available_cores())
    given, threads = os.environ.get(OMP), _number(OMP)
    share = max(1, cores // ranks)
    fix = f"export {OMP}={share}, or start with deepspeed --bind_cores_to_rank (needs numactl)"
    state: Literal["ok", "warning"] = "warning"
    if given is None and ranks > 1:
        # Training divides the cores by itself; numpy, OpenCV and programs that it starts do not.
        detail = f"{OMP} is not set: libraries in each of {ranks} ranks may start {cores} threads"
    elif given is not None and threads is None:
        detail = f"{OMP} is {given!r}, which is no number of threads"
    elif threads is not None and threads * ranks > cores:
        detail = f"{ranks} ranks x {threads} threads on {cores} cores"
        fix = fix if ranks <= cores else f"at most {cores} ranks; {fix}"
    else:
        state, fix = "ok", ""
        detail = f"{ranks} ranks x {threads or share} threads on {cores} cores"
    return Check(name=THREADS, state=state, detail=detail, fix=fix, needed=False)


def _number(variable: str) -> int | None:
    """A variable's whole number of 1 or more, the first of a list such as OpenMP takes for nested loops, else None."""
    text = os.environ.get(variable, "").partition(",")[0].strip()
    return int(text) if text.isascii() and text.isdigit() and int(text) > 0 else None


CHECKS: dict[str, Callable[[], Check]] = {
    "python": _python,
    VERSIONS: _versions,
    "torch": _torch,
    "deepspeed": _deepspeed,
    "native library": _native,
    "PyAV": _video,
    "triton": _optional("triton", "triton", "GPU only: pip install 's4d[gpu]'"),
    "xformers": _optional("xformers", "xformers", "GPU only: pip install 's4d[gpu]'"),
    "DALI": _optional("nvidia-dali-cuda130", "nvidia.dali", "pip install 's4d[dali-cu13]'"),
    "/dev/shm": _shared_memory,
    "disk": _disk,
}
