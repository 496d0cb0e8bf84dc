"""Pickled checkpoints through a process that is shut in: what comes back is safetensors, or one line."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from torch import Tensor

import s4d
from s4d.errors import DataError
from s4d.models.folder import read_tensor_file
from s4d.models.foreign.zero_shards import MODEL_STATES, OPTIMIZER_STATES

Form = Literal["release", "deepspeed"]
# Tensors, what they are put together from, and the result lie in memory at the same time.
MEMORY_PER_BYTE, MEMORY_BYTES = 4, 1 << 30
START_SECONDS, BYTES_PER_SECOND = 60, 10_000_000
LATEST = "latest"
ONE_MODEL_FILE = f"mp_rank_00_{MODEL_STATES}"
MODEL_FILE_OF_RANK = re.compile(rf"zero_pp_rank_(\d+)_mp_rank_00_{re.escape(MODEL_STATES)}")
OPTIMIZER_FILE = re.compile(rf"(?:bf16_)?zero_pp_rank_(\d+)_mp_rank_00_{re.escape(OPTIMIZER_STATES)}")


def read_isolated(form: Form, files: Sequence[Path]) -> dict[str, Tensor]:
    """Tensors by name in the files of one pickled checkpoint; DataError names the file and what is wrong with it."""
    whole = files[0] if len(files) == 1 else files[0].parent
    descriptors: list[int] = []
    try:
        sizes = [_open(file, descriptors) for file in files]
        output = os.memfd_create("s4d-tensors", os.MFD_CLOEXEC)
        descriptors.append(output)
        request = {
            "files": [[file.name, descriptor] for file, descriptor in zip(files, descriptors, strict=False)],
            "limits": {
                "memory": MEMORY_PER_BYTE * sum(sizes) + MEMORY_BYTES,
                "seconds": START_SECONDS + sum(sizes) // BYTES_PER_SECOND,
                "output": 2 * sum(sizes) + (1 << 20),
            },
        }
        answer = _ask(form, request, descriptors, whole)
        if answer is not None:
            raise DataError(f"{whole.parent / answer[0] if len(files) == 1 else whole / answer[0]}: {answer[1]}")
        try:
            return read_tensor_file(Path(f"/proc/self/fd/{output}"))
        except DataError as error:
            # Names of tensors that no header of safetensors may hold.
            raise DataError(f"{whole}: {str(error).partition(': ')[2]}") from error
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def find_shards(folder: Path) -> list[Path]:
    """Files of a DeepSpeed checkpoint, or of the newest one in a folder of them, by rank; DataError if not complete."""
    if (folder / LATEST).is_file():
        tag = (folder / LATEST).read_text(encoding="utf-8", errors="replace").strip()
        if tag in ("", ".", "..") or "/" in tag:
            raise DataError(f"{folder / LATEST}: {tag!r} is no name of a checkpoint")
        folder = folder / tag
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise DataError(f"{folder}: not a readable folder: {error.strerror}") from error
    named = [name for name in names if name.endswith((MODEL_STATES, OPTIMIZER_STATES))]
    models = {int(match[1]): name for name in named if (match := MODEL_FILE_OF_RANK.fullmatch(name))}
    shards = {int(match[1]): name for name in named if (match := OPTIMIZER_FILE.fullmatch(name))}
    for name in named:
        if name not in (ONE_MODEL_FILE, *models.values(), *shards.values()):
            raise DataError(f"{folder / name}: of a model cut over ranks, or of a rank twice, which is not read")
    if (ONE_MODEL_FILE in named) == bool(models):
        raise DataError(f"{folder}: not a DeepSpeed checkpoint: no {ONE_MODEL_FILE}, or more model files than one form")
    for ranks in (models, shards):
        absent = sorted(set(range(len(ranks))) - set(ranks))
        if absent:
            raise DataError(f"{folder}: the file of rank {absent[0]} beside {next(iter(ranks.values()))} is missing")
    ordered = [models[rank] for rank in sorted(models)] or [ONE_MODEL_FILE]
    return [folder / name for name in (*ordered, *(shards[rank] for rank in sorted(shards)))]


def _open(file: Path, descriptors: list[int]) -> int:
    """Add the file's descriptor, return its size."""
    try:
        # A pipe in the place of a file would keep us waiting.
        descriptors.append(os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    except FileNotFoundError as error:
        raise DataError(f"{file}: no such file") from error
    except OSError as error:
        raise DataError(f"{file}: not a readable checkpoint: {error.strerror or error}") from error
    status = os.fstat(descriptors[-1])
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{file}: not a readable checkpoint: not a regular file")
    return status.st_size


def _ask(form: Form, request: dict, descriptors: list[int], whole: Path) -> tuple[str, str] | None:
    """None when the tensors are in the last descriptor, else the file and what is wrong with it."""
    root = Path(s4d.__file__).resolve().parents[1]
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    # A GPU is no part of this, nor are threads, which the limits would not let start.
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    # -P: not from the working directory.
    command = [sys.executable, "-P", "-m", "s4d.models.foreign.child", str(descriptors[-1]), form]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        pass_fds=descriptors,
    ) as child:
        try:
            text, _ = child.communicate(json.dumps(request).encode() + b"\n", timeout=request["limits"]["seconds"])
        except BaseException as error:
            child.kill()
            if isinstance(error, subprocess.TimeoutExpired):
                raise DataError(f"{whole}: refused: reading it takes more than {error.timeout:g} s") from None
            raise
    if child.returncode == 0:
        return None
    try:
        answer = json.loads(text)
        return str(answer["file"]), str(answer["problem"])
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{whole}: refused: the process that read it ended with status {child.returncode}") from None
