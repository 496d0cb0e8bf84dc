"""Judgements of `s4d doctor` about what computes: driver, GPU, torch, native library, Triton, xformers, DeepSpeed."""

from __future__ import annotations

import os
from typing import Any

from engine.dependencies import OPTIONAL, find_misfit, installed
from s4d.cli.doctor_agent import interfaces
from s4d.cli.doctor_bounded import Facts
from s4d.cli.doctor_check import State, Verdict
from s4d.cli.doctor_system import processor_flags

VIDEO_IN_CONTAINERS = "in a container: NVIDIA_DRIVER_CAPABILITIES=compute,utility,video"
# Wheels of torch for the two newest CUDA.
INDEX = "https://download.pytorch.org/whl"
WHEELS = {12: "cu128", 13: "cu130"}
# Libraries that a machine can do without, and the packages that bring them.
PACKAGES = {
    "xformers": ("xformers",),
    "triton": ("triton",),
    "DALI": ("nvidia-dali-cuda130", "nvidia-dali-cuda120"),
    "torchcodec": ("torchcodec",),
}
MATRIX_UNITS = ("avx512_bf16", "amx_bf16")
GIB = 2**30


def has_gpu(facts: Facts) -> bool:
    """Whether training would use one."""
    return bool(facts.get("torch").get("devices")) and os.environ.get("DS_ACCELERATOR") != "cpu"


def check_driver(facts: Facts) -> Verdict:
    """Which CUDA it serves against what torch was built for, and whether it decodes video."""
    found = facts["nvidia"]
    if found["problem"]:
        fix = "nvidia-smi must work: install or reload the driver"
        return Verdict(state="broken", detail=found["problem"], fix=fix, facts=found)
    if found["cuda"] is None:
        if found["device_files"]:
            detail = f"{found['device_files']} device files, but no libcuda.so.1"
            return Verdict(
                state="broken", detail=detail, fix="install the driver; in a container: --gpus all", facts=found
            )
        return Verdict(
            state="absent", detail="none", fix="needs an NVIDIA GPU; in a container: --gpus all", facts=found
        )
    version = found["devices"][0]["driver"] if found["devices"] else "there"
    detail = f"{version}, serves CUDA {found['cuda']}"
    built = facts.get("torch").get("cuda")
    if built is not None:
        detail += f"; torch was built for {built}"
        if _major(found["cuda"]) < _major(built):
            fix = f"install a driver for CUDA {_major(built)}, or {_cuda_torch(found['cuda'])}"
            return Verdict(state="broken", detail=detail, fix=fix, facts=found)
    if not found["decodes_video"]:
        detail += "; no libnvcuvid.so.1: it decodes no video"
        return Verdict(state="warning", detail=detail, fix=VIDEO_IN_CONTAINERS, facts=found)
    return Verdict(state="ok", detail=detail, facts=found)


def check_gpu(facts: Facts) -> Verdict:
    """Devices as torch sees them, or why it sees none."""
    torch, nvidia = facts["torch"], facts.get("nvidia")
    devices, seen = torch["devices"], nvidia.get("devices", [])
    told = {"torch": devices, "nvidia_smi": seen}
    if not devices:
        return _no_gpu(torch, nvidia, told)
    detail = _devices(devices) + _modes(seen)
    if os.environ.get("DS_ACCELERATOR") == "cpu":
        return Verdict(state="idle", detail=f"{detail}; not used", fix="unset DS_ACCELERATOR, which is cpu", facts=told)
    names = torch["architectures"]
    for device in devices:
        major, minor = device["capability"]
        if names and not any(_serves(name, major, minor) for name in names):
            detail = f"{detail}; torch has kernels for {', '.join(names)} alone"
            return Verdict(state="broken", detail=detail, fix="pip install -U torch", facts=told)
        if 10 * major + minor < torch["oldest_architecture"]:
            fix = "torch's kernels serve; ours need a GPU of compute capability 8.0 or newer"
            return Verdict(state="warning", detail=detail, fix=fix, facts=told)
    return Verdict(state="ok", detail=detail, facts=told)


def _no_gpu(torch: dict[str, Any], nvidia: dict[str, Any], told: dict[str, Any]) -> Verdict:
    if not nvidia.get("cuda"):
        fix = "needs an NVIDIA GPU of compute capability 8.0 or newer, and its driver"
        return Verdict(state="absent", detail="none, everything runs on the CPU", fix=fix, facts=told)
    if torch["cuda"] is None:
        detail = f"not used: torch {torch['version']} is a build for the CPU"
        return Verdict(state="idle", detail=detail, fix=_cuda_torch(nvidia["cuda"]), facts=told)
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None:
        detail = f"CUDA_VISIBLE_DEVICES={hidden!r} leaves none"
        return Verdict(state="idle", detail=detail, fix="unset CUDA_VISIBLE_DEVICES", facts=told)
    detail = torch["problem"] or "torch finds none"
    return Verdict(state="broken", detail=detail, fix="nvidia-smi must list the GPU, see the driver", facts=told)


def _devices(devices: list[dict[str, Any]]) -> str:
    """`2 x NVIDIA H100, 79 GiB, compute capability 9.0`, one for each kind."""
    kinds = [
        "{}, {:.0f} GiB, compute capability {}.{}".format(
            device["name"], device["memory_bytes"] / GIB, *device["capability"]
        )
        for device in devices
    ]
    return "; ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds))


def _modes(seen: list[dict[str, Any]]) -> str:
    """Modes that the driver tells of, where all devices agree."""
    found = []
    for key, name in (("mig", "MIG"), ("persistence", "persistence"), ("ecc", "ECC")):
        values = {device[key] for device in seen}
        if len(values) == 1 and (value := values.pop()) in ("Enabled", "Disabled"):
            found.append(f"{name} {'on' if value == 'Enabled' else 'off'}")
    return f"; {', '.join(found)}" if found else ""


def _serves(name: str, major: int, minor: int) -> bool:
    """Whether code of an architecture in torch's list runs on a device: of its own family, or compiled for it there."""
    kind, _, number = name.partition("_")
    digits = "".join(filter(str.isdigit, number))
    if not digits:
        return False
    built = divmod(int(digits), 10)
    return built <= (major, minor) and (kind == "compute" or built[0] == major)


def check_torch(facts: Facts) -> Verdict:
    """Version, what it was built for, and the instructions of its kernels on this processor."""
    found = facts["torch"]
    kind = f"built for CUDA {found['cuda']}" if found["cuda"] else "built for the CPU"
    has = {name: name in processor_flags() for name in MATRIX_UNITS}
    units = ", ".join(name if is_there else f"no {name}" for name, is_there in has.items())
    detail = f"{found['version']}, {kind}; on the CPU {found['cpu_capability']} ({units})"
    if found["bf16_products"] == "fp32":
        detail += ", bf16 products by fp32 ones"
    found = {**found, "processor": has}
    driver_cuda = facts.get("nvidia").get("cuda")
    if driver_cuda and found["cuda"] is None:
        return Verdict(
            state="warning", detail=f"{detail}; the GPU is not used", fix=_cuda_torch(driver_cuda), facts=found
        )
    return Verdict(state="ok", detail=detail, facts=found)


def check_native(facts: Facts) -> Verdict:
    """Whether the native library is built, and which instructions it uses."""
    found = facts["native"]
    if found["problem"]:
        state: State = "absent" if "is not built" in found["problem"] else "broken"
        fix = "install a C++17 compiler, then: make native"
        return Verdict(state=state, detail=found["problem"], fix=fix, facts=found)
    told = [f"inner loops for {found['instructions']}"] if found["instructions"] else []
    told += [f"no {part}: {why}" for part, why in found["missing"].items()]
    detail = "; ".join(["loaded", *told])
    if has_gpu(facts) and "CUDA" in found["missing"]:
        return Verdict(state="warning", detail=detail, fix="install nvcc, then: make native", facts=found)
    if found["instructions"] is None:
        detail = f"{detail}; built before it told its instructions"
        return Verdict(state="warning", detail=detail, fix="make native", facts=found)
    return Verdict(state="ok", detail=detail, facts=found)


def package_of(name: str) -> str | None:
    """The package of an optional library that is installed, if one is."""
    return next((package for package in PACKAGES[name] if installed(package) is not None), None)


def optional(name: str, extra: str) -> Verdict | str:
    """The version of an optional library that is there and fits, else the verdict."""
    package = package_of(name)
    if package is None:
        return Verdict(state="absent", detail="not installed", fix=f"pip install 's4d-engine[{extra}]'")
    version = installed(package) or ""
    problem, _, advice = find_misfit(package, OPTIONAL).partition("; ")
    return Verdict(state="broken", detail=problem, fix=advice, facts={"version": version}) if problem else version


def check_triton(facts: Facts) -> Verdict:
    """Whether it compiles, and has a GPU to run on."""
    version = optional("triton", "gpu")
    if isinstance(version, Verdict):
        return version
    found = {"version": version, **facts["triton"]}
    detail = f"{version}, compiles (tried for {found['compiled_for']})"
    if found["problem"]:
        fix = "starting kernels needs a C compiler and Python's headers (Debian: gcc python3-dev)"
        return Verdict(state="broken", detail=f"{version}: {found['problem']}", fix=fix, facts=found)
    if found["interpreted"]:
        detail += "; its interpreter is on, which is for tests"
        return Verdict(state="warning", detail=detail, fix="unset TRITON_INTERPRET", facts=found)
    if not has_gpu(facts):
        fix = "needs a GPU; for tests on a CPU: TRITON_INTERPRET=1"
        return Verdict(state="idle", detail=f"{detail}; no GPU to run on", fix=fix, facts=found)
    return Verdict(state="ok", detail=detail, facts=found)


def check_xformers(facts: Facts) -> Verdict:
    """Whether its operators load under this torch, and serve attention on a GPU."""
    version = optional("xformers", "gpu")
    if isinstance(version, Verdict):
        return version
    found = {"version": version, **facts["xformers"]}
    there = [name for name, is_there in found["operators"].items() if is_there and name.startswith("memory_eff")]
    if found["problem"]:
        detail = f"{version}: {found['problem'].removeprefix('xformers ')}"
        fix = "a build for this torch: pip install -U xformers; without it only a rival of our attention is missing"
        return Verdict(state="broken", detail=detail, fix=fix, facts=found)
    detail = f"{version}, {len(there)} attention operators load"
    if not has_gpu(facts):
        return Verdict(state="idle", detail=f"{detail}; no GPU to run on", fix="needs a GPU", facts=found)
    return Verdict(state="ok", detail=f"{detail}; used where engine.backends.attention names it", facts=found)


def check_deepspeed(facts: Facts) -> Verdict:
    """Whether it imports; none of its ops is needed."""
    found = facts["deepspeed"]
    built = ", ".join(found["built"]) or "none of its ops is built"
    return Verdict(state="ok", detail=f"{found['version']} imports; {built}, and none is needed", facts=found)


def check_ranks(facts: Facts) -> Verdict:
    """What ranks reduce with, and over which interface."""
    backend = facts["choices"]["between_ranks"]
    variable = f"{backend.upper()}_SOCKET_IFNAME"
    links = {name: address for name, address in interfaces().items() if name != "lo"}
    wanted = os.environ.get(variable)
    told = {"backend": backend, "interfaces": links, "variable": variable, "interface": wanted}
    version = facts["torch"].get(backend)
    if not version:
        return Verdict(
            state="broken", detail=f"torch was built without {backend}", fix="make env, or a torch with it", facts=told
        )
    detail = f"{backend} {version}" if isinstance(version, str) else backend
    shown = ", ".join(f"{name} {address}" for name, address in links.items()) or "lo alone"
    if backend == "gloo" and wanted and wanted not in (*links, "lo"):
        detail += f"; {variable}={wanted}, which is none of: {shown}"
        return Verdict(state="warning", detail=detail, fix=f"unset {variable}, or name one of these", facts=told)
    if wanted:
        return Verdict(state="ok", detail=f"{detail} over {wanted} ({variable})", facts=told)
    return Verdict(state="ok", detail=f"{detail}; {variable} is not set, interfaces: {shown}", facts=told)


def check_backends(facts: Facts) -> Verdict:
    """Whether every op has a backend."""
    choices = facts["choices"]["ops"]
    refused = [choice for choice in choices if choice["backend"] is None]
    if refused:
        op = refused[0]["op"]
        fix = f"unset S4D_{op.upper()}_BACKEND"
        return Verdict(state="broken", detail=refused[0]["why"], fix=fix)
    return Verdict(state="ok", detail=f"{len({choice['op'] for choice in choices})} ops have one, listed below")


def _major(cuda: str) -> int:
    return int(cuda.partition(".")[0])


def _cuda_torch(cuda: str) -> str:
    """How to get a torch that a driver for `cuda` serves."""
    wheels = WHEELS.get(_major(cuda), WHEELS[max(WHEELS)] if _major(cuda) > max(WHEELS) else "")
    return f"pip install torch --index-url {INDEX}/{wheels}" if wheels else "install a newer driver"
