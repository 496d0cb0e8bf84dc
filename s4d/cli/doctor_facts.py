"""What libraries say about themselves, each asked in a process of its own that it may end: `answer`."""

from __future__ import annotations

import csv
import ctypes
import io
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

QUERY = {
    "name": "name",
    "driver": "driver_version",
    "memory_mib": "memory.total",
    "used_mib": "memory.used",
    "capability": "compute_cap",
    "mig": "mig.mode.current",
    "persistence": "persistence_mode",
    "ecc": "ecc.mode.current",
}
COMPILED_FOR = 90
HEAD_DIM = 64


def nvidia_facts() -> dict[str, Any]:
    """The driver as it is without torch: devices, versions, and its library for decoding videos."""
    found: dict[str, Any] = {
        "device_files": len(list(Path("/dev").glob("nvidia[0-9]*"))),
        "cuda": _driver_cuda(),
        "decodes_video": _loads("libnvcuvid.so.1"),
        "devices": [],
        "problem": None,
    }
    if shutil.which("nvidia-smi") is None:
        return found
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERY.values())}", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        found["problem"] = _one_line(done.stdout + done.stderr) or f"nvidia-smi ends with status {done.returncode}"
        return found
    rows = csv.reader(io.StringIO(done.stdout), skipinitialspace=True)
    found["devices"] = [dict(zip(QUERY, row, strict=True)) for row in rows if row]
    return found


def _driver_cuda() -> str | None:
    """The newest CUDA that the driver serves; None without one."""
    number = ctypes.c_int()
    try:
        status = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number))
    except (OSError, AttributeError):
        return None
    return None if status else f"{number.value // 1000}.{number.value % 1000 // 10}"


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def torch_facts() -> dict[str, Any]:
    """torch, its devices, and what ranks can reduce with."""
    import torch
    import torch.distributed as dist

    from kernels.launch import OLDEST_ARCHITECTURE
    from kernels.wide_products import are_missing

    devices: list[dict[str, Any]] = []
    problem = None
    if torch.version.cuda is not None:
        try:
            torch.cuda.init()
            devices = [_device(index) for index in range(torch.cuda.device_count())]
        except Exception as error:
            problem = _one_line(str(error)) or type(error).__name__
    has_nccl = dist.is_available() and dist.is_nccl_available()
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "oldest_architecture": OLDEST_ARCHITECTURE,
        "architectures": torch.cuda.get_arch_list() if devices else [],
        "devices": devices,
        "problem": problem,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "bf16_products": "fp32" if are_missing() else "oneDNN",
        "threads": torch.get_num_threads(),
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if has_nccl else None,
        "gloo": dist.is_available() and dist.is_gloo_available(),
    }


def _device(index: int) -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(index)
    return {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "capability": [properties.major, properties.minor],
    }


def native_facts() -> dict[str, Any]:
    """The native library: why it is not there, or which of its parts are not."""
    from kernels import native

    usable, reason = native.status()
    return {
        "problem": None if usable else reason,
        "instructions": native.instruction_set() if usable else None,
        "missing": {part: why for part, why in native.parts().items() if why is not None},
    }


def triton_facts() -> dict[str, Any]:
    """Whether Triton compiles a kernel, and on a machine with a GPU whether it can start one there."""
    interpreted = os.environ.pop("TRITON_INTERPRET", "") not in ("", "0")
    with tempfile.TemporaryDirectory(prefix="s4d-triton-") as folder:
        os.environ["TRITON_CACHE_DIR"] = folder
        from triton.backends.compiler import GPUTarget

        from s4d.cli.doctor_kernel import compile_copy

        target = GPUTarget("cuda", COMPILED_FOR, 32)
        problem = None
        if _driver_cuda() is not None:
            try:
                from triton.runtime import driver

                # Builds what starts kernels, with the machine's C compiler.
                target = driver.active.get_current_target()
            except Exception as error:
                problem = _one_line(str(error)) or type(error).__name__
        size = compile_copy(target)
    return {"interpreted": interpreted, "compiled_for": f"sm_{target.arch}", "bytes": size, "problem": problem}


def xformers_facts() -> dict[str, Any]:
    """Why training cannot use xformers on a GPU, and which of its operators are there."""
    import torch

    from kernels.attention.xformers import missing_xformers, no_operator

    reason = missing_xformers()
    on_gpu = torch.cuda.is_available()
    if reason is None and on_gpu:
        reason = no_operator("cuda", torch.bfloat16, HEAD_DIM)
    try:
        from xformers.ops.common import OPERATORS_REGISTRY

        operators = {f"{row.OPERATOR_CATEGORY}.{row.NAME}": row.is_available() for row in OPERATORS_REGISTRY}
    except Exception:
        operators = {}
    return {"problem": reason, "operators": operators, "on_gpu": on_gpu}


def deepspeed_facts() -> dict[str, Any]:
    """Whether DeepSpeed imports, which of its ops are built, and which it could build here when they are wanted."""
    import deepspeed
    from deepspeed.git_version_info import installed_ops

    could = deepspeed.ops.__compatible_ops__
    return {
        "version": deepspeed.__version__,
        "built": [name for name, is_there in installed_ops.items() if is_there],
        "could_build": [name for name, fits in could.items() if fits],
    }


def pyav_facts() -> dict[str, Any]:
    """PyAV, its FFmpeg, and which codecs it decodes of those that are allowed."""
    import av

    from s4d.cli.doctor_decoding import by_pyav, without_decoder

    return {
        "version": av.__version__,
        "ffmpeg": getattr(av, "ffmpeg_version_info", None),
        "libavcodec": list(av.library_versions["libavcodec"]),
        "decodes": by_pyav(),
        "without_decoder": without_decoder(),
    }


def pillow_facts() -> dict[str, Any]:
    """Pillow, and which image formats it decodes of those that are allowed."""
    import PIL

    from s4d.cli.doctor_decoding import by_pillow

    return {"version": PIL.__version__, "decodes": by_pillow()}


def dali_facts() -> dict[str, Any]:
    """What DALI decodes, by device."""
    from s4d.cli.doctor_decoding import by_dali
    from s4d.data.trial import refusal

    reason = refusal("dali")
    if reason is not None:
        return {"problem": reason, "decodes": {}}
    devices = ("cpu", "gpu") if _driver_cuda() is not None else ("cpu",)
    return {"problem": None, "decodes": {device: by_dali(device) for device in devices}}


def torchcodec_facts() -> dict[str, Any]:
    """Why torchcodec cannot be used."""
    from s4d.data.trial import refusal

    return {"problem": refusal("torchcodec")}


def choice_facts() -> dict[str, Any]:
    """What training would choose here."""
    from s4d.cli.doctor_choices import choose_all

    return choose_all()


PROBES: dict[str, Callable[[], dict[str, Any]]] = {
    "choices": choice_facts,
    "xformers": xformers_facts,
    "deepspeed": deepspeed_facts,
    "torch": torch_facts,
    "triton": triton_facts,
    "DALI": dali_facts,
    "torchcodec": torchcodec_facts,
    "PyAV": pyav_facts,
    "Pillow": pillow_facts,
    "native": native_facts,
    "nvidia": nvidia_facts,
}


def _one_line(text: str) -> str:
    """The first line that says something."""
    return next((" ".join(line.split()) for line in text.splitlines() if line.strip()), "")


def answer(name: str, sender: Connection, log: str, environment: dict[str, str]) -> None:
    """In a process of its own: send the facts of a probe, or one line about why there are none, and end.

    Whatever libraries print goes to `log`; what they start belongs to the process group that is formed here.
    """
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    try:
        found = json.dumps(PROBES[name]())
    except Exception as error:
        found = json.dumps(f"does not work: {_one_line(str(error)) or type(error).__name__}")
    # Pickled, a library's own kind of text would import the library on the other side.
    sender.send_bytes(found.encode())
    # Nothing that a library does at its exit is waited for.
    os._exit(0)
