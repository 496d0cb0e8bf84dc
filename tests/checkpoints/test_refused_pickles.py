"""Pickles that act, lie or hold something else than tensors, given to what `s4d checkpoint import` reads them with.

Tests of the import start the reading process itself; here its reading is done in copies of this process behind the same
walls, which takes no time.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from s4d.errors import DataError
from s4d.models.foreign import child
from s4d.models.foreign.walls import close_doors
from s4d.models.weights import load_initial

MEMORY = 256 << 20


class Acts:
    """Unpickled, it calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def saved(content: Any, *, legacy: bool = False) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


def with_record(data: bytes, name: str, change: Callable[[bytes], bytes]) -> bytes:
    """A zip with one of its records changed and the checksums right."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w") as new:
        for entry in old.namelist():
            content = old.read(entry)
            new.writestr(entry, change(content) if entry.endswith(name) else content)
    return stream.getvalue()


MODEL = {"model": OrderedDict(x=torch.arange(8.0))}
GOOD, GOOD_LEGACY = saved(MODEL), saved(MODEL, legacy=True)


def number(value: int) -> bytes:
    return b"K" + bytes([value])


def lying(old: bytes, new: bytes, data: bytes = GOOD) -> bytes:
    """The same file whose pickle says other sizes."""

    def change(text: bytes) -> bytes:
        assert old in text
        return text.replace(old, new)

    return change(data) if data is GOOD_LEGACY else with_record(data, "data.pkl", change)


HUGE = b"\x8a\x06" + (1 << 40).to_bytes(6, "little")
# In the pickle of GOOD: the storage's count of values, then its offset, then the sizes of the tensor.
COUNT = number(8) + b"tq"
COUNT_LEGACY = number(8) + b"Nt"
SIZES = number(8) + b"\x85q"


def poisons(canary: Path) -> dict[str, tuple[bytes, str]]:
    """File, and what is said of it."""
    shell = Acts(os.system, f"touch {canary}")
    array = np.zeros(2)
    return {
        "os.system": (saved({"model": shell}), r"refused: posix\.system in it"),
        "os.system, nested": (
            saved({"model": {"x": torch.zeros(1)}, "args": [{"a": (shell,)}]}),
            r"posix\.system in it",
        ),
        "os.system, before zip": (saved({"model": shell}, legacy=True), r"refused: posix\.system in it"),
        "os.system, a bare pickle": (pickle.dumps({"model": shell}), "refused"),
        "eval": (saved({"model": Acts(eval, f"open({str(canary)!r}, 'w')")}), r"refused: .*eval in it"),
        "through numpy's reconstruct": (saved({"model": {"x": array}}), r"refused: numpy.*_reconstruct in it"),
        "inside an array of objects": (saved({"model": np.array([shell], dtype=object)}), "refused: (numpy|posix)"),
        "a module": (saved({"model": torch.nn.Linear(1, 1)}), r"refused: torch\.nn\.modules\.linear\.Linear in it"),
        "no tensors": (saved({"model": {"x": 1}}), "entry 'x' of the model is no tensor"),
        "a storage longer than its record": (lying(COUNT, HUGE + b"tq"), "not a readable checkpoint|memory"),
        "a tensor longer than its storage": (lying(SIZES, number(200) + b"\x85q"), "not a readable checkpoint"),
        "a tensor of a terabyte": (lying(SIZES, HUGE + b"\x85q"), "not a readable checkpoint"),
        "a storage cut short": (
            with_record(GOOD, "data/0", lambda data: data[:4]),
            "not a readable checkpoint|refused",
        ),
        "a storage of a terabyte, before zip": (
            lying(COUNT_LEGACY, HUGE + b"Nt", GOOD_LEGACY),
            "not a readable|memory",
        ),
        "cut in the middle": (GOOD[: len(GOOD) // 2], "refused|not a readable checkpoint"),
        "cut in the middle, before zip": (GOOD_LEGACY[:-16], "refused|not a readable checkpoint"),
        "a string of 4 GiB": (b"\x80\x02X" + struct.pack("<I", 2**32 - 1) + b"x.", "refused|not a readable"),
    }


NAMES = tuple(poisons(Path("/x")))


def what_is_said(content: bytes) -> str:
    """The line of the reading process about a file; empty if it would take it."""
    child.warm_up()
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        said = b"?"
        try:
            close_doors(memory=MEMORY, seconds=30, output=0)
            try:
                child.of_release({"": child.unpickled(io.BytesIO(content))})
                said = b""
            except child.RefusedError as error:
                said = str(error).encode()
            except MemoryError:
                said = b"refused: it takes more memory than its size explains"
            except Exception as error:
                said = f"not a readable checkpoint: {error}".encode()
        finally:
            os.write(writing, said[:4000])
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        text = stream.read().decode()
    os.waitpid(process, 0)
    return text


@pytest.mark.parametrize("name", NAMES)
def test_poisoned_pickles_are_refused_and_do_nothing(tmp_path: Path, name: str) -> None:
    content, words = poisons(tmp_path / "canary")[name]
    assert re.search(words, what_is_said(content))
    assert not (tmp_path / "canary").exists()


def test_the_same_files_without_poison_are_taken() -> None:
    assert what_is_said(GOOD) == what_is_said(GOOD_LEGACY) == ""


@pytest.mark.parametrize("name", ["model.safetensors", "model.pth"])
def test_nothing_else_reads_a_pickle(tmp_path: Path, name: str) -> None:
    """Where a model folder is expected, a pickle is refused by its name or its first bytes."""
    (tmp_path / name).write_bytes(poisons(tmp_path / "canary")["os.system"][0])
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        load_initial(torch.nn.Linear(1, 1), tmp_path / name)  # type: ignore[arg-type]
    assert not (tmp_path / "canary").exists()
