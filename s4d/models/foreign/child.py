"""The one place where a file made elsewhere is unpickled: a process of its own that has given up everything else.

    python -m s4d.models.foreign.child <number of the output's descriptor> <release|deepspeed>

Reads from stdin a JSON line with its limits and the files to read, as names and open descriptors. Writes the tensors
to the output as safetensors and ends with status 0, or prints one JSON line that says why not.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import sys
import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from s4d.models.foreign.walls import close_doors
from s4d.models.foreign.zero_shards import MODEL_STATES, merged

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
TOO_LARGE = "refused: it takes more memory than its size explains"
NOT_ALLOWED = re.compile(r"GLOBAL (\S+) was not an allowed global|unsupported GLOBAL (\S+)")


class Values:
    """Stands for an object that only carries values, of which nothing is used."""


# What stands in files beside tensors and plain values; none of the real classes is imported.
STAND_INS: list[Any] = [
    (Values, "argparse.Namespace"),
    (Values, "deepspeed.runtime.fp16.loss_scaler.LossScaler"),
    (Values, "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler"),
    (Values, "deepspeed.utils.tensor_fragment.fragment_address"),
    (int, "deepspeed.runtime.zero.config.ZeroStageEnum"),
]


class RefusedError(Exception):
    """Why a file is not taken."""


def main() -> None:
    """Serve one request."""
    output, form = int(sys.argv[1]), sys.argv[2]
    request = json.loads(sys.stdin.readline())
    files = [(name, os.fdopen(descriptor, "rb")) for name, descriptor in request["files"]]
    torch.set_num_threads(1)
    warm_up()
    close_doors(**request["limits"])
    name = ""
    try:
        contents = {}
        for name, stream in files:
            contents[name] = unpickled(stream)
        # From here on the whole is to blame, if it is more than one file.
        name = "" if len(files) > 1 else name
        write(output, WEIGHTS[form](contents))
        return
    except RefusedError as error:
        problem = str(error)
    except MemoryError:
        problem = TOO_LARGE
    except Exception as error:
        # torch reports missing memory as an error like any other.
        problem = TOO_LARGE if "can't allocate memory" in str(error) else f"not a readable checkpoint: {_reason(error)}"
    print(json.dumps({"file": name, "problem": problem}), flush=True)
    # What lies around may be of unknown kinds; nothing of it is to run on the way out.
    os._exit(1)


def unpickled(stream: io.BufferedReader | io.BytesIO) -> Any:
    """Content of a file of `torch.save`, tensors and plain values alone; RefusedError for anything else."""
    try:
        with torch.serialization.safe_globals(STAND_INS), warnings.catch_warnings(action="ignore"):
            return torch.load(stream, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = NOT_ALLOWED.search(str(error))
        kind = f"{found[1] or found[2]} in it" if found else "not a checkpoint, or more in it"
        raise RefusedError(f"refused: {kind}; only tensors and plain values are read") from error


def of_release(contents: Mapping[str, Any]) -> dict[str, Tensor]:
    """The model's tensors in the one file of a release."""
    (content,) = contents.values()
    model = content
    for key in ("model", "module"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            model = content[key]
            break
    if not isinstance(model, dict) or not model:
        raise RefusedError("holds no model (expected a dictionary of tensors, or one under 'model')")
    for name, value in model.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise RefusedError(f"entry {name!r} of the model is no tensor")
    return model


def of_deepspeed(contents: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights in the files of DeepSpeed, which come in the order of their ranks."""
    states = [content for name, content in contents.items() if name.endswith(MODEL_STATES)]
    shards = [content for name, content in contents.items() if not name.endswith(MODEL_STATES)]
    try:
        return merged(states, shards)
    except ValueError as error:
        raise RefusedError(str(error)) from error


WEIGHTS = {"release": of_release, "deepspeed": of_deepspeed}


def write(output: int, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file."""
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.dtype not in DTYPES or tensor.device.type != "cpu":
            raise RefusedError(f"tensor {name!r}: of a kind that is not read: {tensor.dtype}, {tensor.layout}")
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    _write_all(output, memoryview(len(text).to_bytes(8, "little") + text))
    for tensor in tensors.values():
        _write_all(output, memoryview(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy()))  # type: ignore[arg-type]


def _write_all(output: int, data: memoryview) -> None:
    while data:
        data = data[os.write(output, data) :]


def warm_up() -> None:
    """Do once what will be done, so that everything it imports is there when nothing can be opened any more."""
    sample = {"a": torch.zeros(2), "b": torch.zeros(2, dtype=torch.bfloat16)}
    with open(os.devnull, "wb") as nothing:
        for new_form in (True, False):
            stream = io.BytesIO()
            torch.save({"model": sample}, stream, _use_new_zipfile_serialization=new_form)
            write(nothing.fileno(), of_release({"": unpickled(io.BytesIO(stream.getvalue()))}))
    for nonsense in (b"", b"no checkpoint", b"\x80\x02cos\nsystem\n."):
        with suppress(Exception):
            unpickled(io.BytesIO(nonsense))


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0]


if __name__ == "__main__":
    main()
