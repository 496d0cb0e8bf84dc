"""The native library: loaded on first use from beside this module, or a stated reason why it is not there.

A pure-Python install has no library; every op then serves from its portable backends.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
from pathlib import Path

LIBRARY_NAME = "libs4d_native.so"

# Matches s4d_abi_version() of the sources beside this file.
ABI_VERSION = 4


def _library_path() -> Path | None:
    # An editable install keeps built files apart from the sources; the package path then names both folders.
    folders = [Path(__file__).parent, *map(Path, __path__)]
    return next((folder / LIBRARY_NAME for folder in folders if (folder / LIBRARY_NAME).is_file()), None)


@functools.cache
def _load() -> tuple[ctypes.CDLL | None, str]:
    path = _library_path()
    if path is None:
        return (
            None,
            "the native library is not built (no compiler, or a pure-Python wheel); `make native` builds it",
        )
    try:
        # The library is linked to OpenMP by name alone: it shares torch's, also where the system has none.
        importlib.import_module("torch")
        library = ctypes.CDLL(str(path))
        version = int(library.s4d_abi_version())
    except (OSError, AttributeError) as error:
        return None, f"the native library does not load: {error}"
    if version != ABI_VERSION:
        return None, f"{path}: expected interface version {ABI_VERSION}, got {version}; `make native` rebuilds it"
    return library, ""


def status() -> tuple[bool, str]:
    """Whether the library is usable, and the reason if it is not; ``parts`` says what it holds."""
    library, reason = _load()
    return library is not None, reason


def library() -> ctypes.CDLL:
    """The loaded library; RuntimeError with the reason where there is none."""
    loaded, reason = _load()
    if loaded is None:
        raise RuntimeError(reason)
    return loaded


def instruction_set() -> str | None:
    """The instructions that the library's inner loops use on this processor; None if it was built before it told."""
    loaded = library()
    if not hasattr(loaded, "s4d_instruction_set"):
        return None
    function = loaded.s4d_instruction_set
    function.restype = ctypes.c_char_p
    name: bytes = function()
    return name.decode()


def attention_refuses(head_dim: int) -> str | None:
    """Why the library or this processor cannot serve attention over heads of ``head_dim``, or None."""
    loaded, reason = _load()
    if loaded is None:
        return reason
    function = loaded.s4d_attention_refuses
    function.restype = ctypes.c_char_p
    refusal: bytes | None = function(ctypes.c_int64(head_dim))
    return None if refusal is None else refusal.decode()


def cuda_refuses() -> str | None:
    """Why the library has nothing for CUDA tensors, or None."""
    loaded, reason = _load()
    if loaded is None:
        return reason
    if not hasattr(loaded, "s4d_routing_plan_cuda"):
        return "the native library was built without a CUDA compiler; `make native` builds it again"
    return None


def parts() -> dict[str, str | None]:
    """Parts of the library, each with the reason why it is not there or None."""
    available, reason = status()
    return {
        "processor": None if available else reason,
        "bfloat16 attention": attention_refuses(64),
        "CUDA": cuda_refuses(),
    }
