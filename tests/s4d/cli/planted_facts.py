"""What libraries would say of themselves on two sound machines: one with a GPU, one without."""

from __future__ import annotations

import copy
from typing import Any

from s4d.cli.doctor_bounded import Facts

CODECS = dict.fromkeys(("h264", "hevc", "vp9", "av1", "mpeg4"))
REFUSED = "is not supported by the CPU variant of this operator"
SMI = {
    "name": "NVIDIA H100 80GB HBM3",
    "driver": "580.65.06",
    "memory_mib": "81559",
    "used_mib": "4",
    "capability": "9.0",
    "mig": "Disabled",
    "persistence": "Enabled",
    "ecc": "Enabled",
}
DEVICE = {"name": "NVIDIA H100 80GB HBM3", "memory_bytes": 85 * 10**9, "capability": [9, 0]}

ON_CPU: dict[str, dict[str, Any]] = {
    "nvidia": {"device_files": 0, "cuda": None, "decodes_video": False, "devices": [], "problem": None},
    "torch": {
        "version": "2.13.0+cpu",
        "cuda": None,
        "oldest_architecture": 80,
        "architectures": [],
        "devices": [],
        "problem": None,
        "cpu_capability": "AVX512",
        "bf16_products": "oneDNN",
        "threads": 2,
        "nccl": None,
        "gloo": True,
    },
    "native": {"problem": None, "instructions": "x86-64-v4", "missing": {}},
    "triton": {"interpreted": False, "compiled_for": "sm_90", "bytes": 5392, "problem": None},
    "xformers": {"problem": None, "operators": {"memory_efficient_attention.fa2F": True}, "on_gpu": False},
    "deepspeed": {"version": "0.19.8", "built": [], "could_build": ["cpu_adam"]},
    "PyAV": {
        "version": "18.1.0",
        "ffmpeg": "8.1.2",
        "libavcodec": [62, 28, 102],
        "decodes": CODECS,
        "without_decoder": [],
    },
    "Pillow": {"version": "13.0.0", "decodes": dict.fromkeys(("JPEG", "PNG", "WEBP", "BMP", "TIFF"))},
    "DALI": {"problem": None, "decodes": {"cpu": {**CODECS, "h264": REFUSED, "jpeg": None}}},
    "torchcodec": {"problem": None},
    "choices": {
        "device": "cpu",
        "between_ranks": "gloo",
        "ops": [{"op": "attention", "case": "bf16", "backend": "native", "why": "first choice"}],
    },
}
ON_GPU: dict[str, dict[str, Any]] = {
    **ON_CPU,
    "nvidia": {"device_files": 1, "cuda": "13.0", "decodes_video": True, "devices": [SMI], "problem": None},
    "torch": {
        **ON_CPU["torch"],
        "version": "2.13.0+cu130",
        "cuda": "13.0",
        "architectures": ["sm_80", "sm_90", "sm_120"],
        "devices": [DEVICE],
        "nccl": "2.28.3",
    },
    "xformers": {**ON_CPU["xformers"], "on_gpu": True},
    "DALI": {"problem": None, "decodes": {"cpu": {**CODECS, "h264": REFUSED}, "gpu": {**CODECS, "jpeg": None}}},
    "choices": {**ON_CPU["choices"], "device": "cuda", "between_ranks": "nccl"},
}


def planted(base: dict[str, dict[str, Any]], **changed: dict[str, Any] | str) -> Facts:
    """Facts of a machine with some of them changed; a string is why a probe gave none."""
    answers = copy.deepcopy(base)
    failures = {}
    for name, change in changed.items():
        if isinstance(change, str):
            answers.pop(name)
            failures[name] = change
        else:
            answers[name] |= change
    return Facts(answers=answers, failures=failures)
