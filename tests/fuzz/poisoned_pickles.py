"""Pickles that act when they are loaded, in every file that a checkpoint may come in.

Each gadget would leave a file, the canary, where it ran. They are put together from opcodes where Python's own pickler
would not write them.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch


def _text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _global(name: str, attribute: str) -> bytes:
    return f"c{name}\n{attribute}\n".encode()


def _stack_global(name: str, attribute: str) -> bytes:
    return _text(name) + _text(attribute) + b"\x93"


def _called(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


def _list(*items: bytes) -> bytes:
    return b"](" + b"".join(items) + b"e"


def gadgets(canary: Path) -> dict[str, bytes]:
    """Pickled values by name, without the frame of a whole pickle."""
    path = str(canary)
    shell, code = f"touch {path}", f"open({path!r}, 'w')"
    imported = f"__import__('os').mkdir({path!r})"
    builtin = lambda name, *args: _called(_global("builtins", name), *args)  # noqa: E731
    opener = builtin("open", _text(path), _text("w"))
    attribute = builtin("getattr", _global("os", "path"), _text("os"))
    chained = _called(builtin("getattr", attribute, _text("system")), _text(shell))
    partial = _called(_global("functools", "partial"), _global("os", "system"), _text(shell))
    getter = _called(_global("operator", "attrgetter"), _text("system"))
    caller = _called(_global("operator", "methodcaller"), _text("system"), _text(shell))
    module = _called(_global("importlib", "import_module"), _text("os"))
    return {
        "os.system": _called(_global("os", "system"), _text(shell)),
        "posix.system": _called(_global("posix", "system"), _text(shell)),
        "os.mkdir": _called(_global("os", "mkdir"), _text(path)),
        "os.popen": _called(_global("os", "popen"), _text(shell)),
        "os.execv": _called(_global("os", "execv"), _text("/bin/touch"), _list(_text("touch"), _text(path))),
        "os.posix_spawn": _called(
            _global("os", "posix_spawn"), _text("/bin/touch"), _list(_text("touch"), _text(path)), b"}"
        ),
        "subprocess.call": _called(_global("subprocess", "call"), _list(_text("touch"), _text(path))),
        "subprocess.Popen": _called(_global("subprocess", "Popen"), _list(_text("touch"), _text(path))),
        "subprocess.check_output": _called(_global("subprocess", "check_output"), _list(_text("touch"), _text(path))),
        "pty.spawn": _called(_global("pty", "spawn"), _list(_text("touch"), _text(path))),
        "eval": builtin("eval", _text(code)),
        "exec": builtin("exec", _text(code)),
        "open": opener,
        "io.open": _called(_global("io", "open"), _text(path), _text("w")),
        "io.FileIO": _called(_global("io", "FileIO"), _text(path), _text("w")),
        "compile": builtin("exec", builtin("compile", _text(code), _text("x"), _text("exec"))),
        "__import__": builtin("eval", _text(imported)),
        "import_module": _called(builtin("getattr", module, _text("system")), _text(shell)),
        "getattr chain": chained,
        "functools.partial": _called(partial),
        "functools.reduce": _called(_global("functools", "reduce"), _global("os", "system"), _list(_text(shell))),
        "operator.attrgetter": _called(_called(getter, module), _text(shell)),
        "operator.methodcaller": _called(caller, module),
        "map": builtin("list", builtin("map", _global("os", "system"), _list(_text(shell)))),
        "stack global": _called(_stack_global("os", "system"), _text(shell)),
        "inst": b"(" + _text(shell) + b"ios\nsystem\n",
        "obj": b"(" + _global("os", "system") + _text(shell) + b"o",
        "newobj": _global("subprocess", "Popen") + b"(" + _list(_text("touch"), _text(path)) + b"t\x81",
        "newobj_ex": _global("subprocess", "Popen") + b"(" + _list(_text("touch"), _text(path)) + b"t}\x92",
        "build": _global("argparse", "Namespace") + b")\x81}" + _text("__reduce__") + opener + b"sb",
        "setstate": _called(_global("types", "SimpleNamespace")) + b"}" + _text("__setstate__") + opener + b"sb",
        "extension registry": b"\x82\x01",
        "persistent id": b"(" + _text("storage") + opener + b"tQ",
        "persistent text": b"Pos.system\n",
        "dunder dict": _global("torch", "__dict__"),
        "numpy.load": _called(_global("numpy", "load"), _text(path), b"N\x88"),
        "numpy exec": _called(_global("numpy.testing._private.utils", "runstring"), _text(code), b"}"),
        "torch.load": _called(_global("torch", "load"), _text(path)),
        "torch.hub": _called(_global("torch.hub", "load"), _text(str(canary.parent)), _text("x")),
        "torch.jit": _called(_global("torch.jit", "load"), _text(path)),
        "torch eval": _called(_global("torch.utils._config_module", "eval"), _text(code)),
        "ctypes": _called(_global("ctypes", "CDLL"), _text(path)),
        "code": _called(_global("code", "interact")),
        "runpy": _called(_global("runpy", "run_path"), _text(path)),
        "pickle in pickle": _called(_global("pickle", "loads"), b"C" + bytes([len(_short(shell))]) + _short(shell)),
        "webbrowser": _called(_global("webbrowser", "open"), _text(f"file://{path}")),
        "shutil": _called(_global("shutil", "copy"), _text("/etc/hostname"), _text(path)),
        "pathlib": _called(builtin("getattr", _called(_global("pathlib", "PosixPath"), _text(path)), _text("touch"))),
        "memo bomb": b"".join(b"](" + b"h\x00" * 9 + b"eq\x00" for _ in range(40)).replace(b"h\x00", b"]", 9),
        "list bomb": b"]q\x00" + b"(" + b"h\x00" * 1000 + b"e" + b"\x94" * 1000,
        "long bomb": b"\x8b" + struct.pack("<i", 2**31 - 1),
        "string bomb": b"X" + struct.pack("<I", 2**32 - 1),
        "depth bomb": b"(" * 100_000,
    }


def _short(shell: str) -> bytes:
    return pickle.dumps(shell)[:200]


def _state(gadget: bytes) -> bytes:
    """A whole pickle: `{"model": {"x": <gadget>}}`."""
    return b"\x80\x02}" + _text("model") + b"}" + _text("x") + gadget + b"ss."


def _zip(records: dict[str, bytes], *, broken_sum: bool = False) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    data = bytearray(stream.getvalue())
    if broken_sum:
        # In the local header and in the directory.
        for mark, offset in ((b"PK\x03\x04", 14), (b"PK\x01\x02", 16)):
            at = data.find(mark)
            data[at + offset : at + offset + 4] = b"\xde\xad\xbe\xef"
    return bytes(data)


def _torch_zip(pickled: bytes, **traits: bool) -> bytes:
    return _zip({"a/data.pkl": pickled, "a/version": b"3\n", "a/byteorder": b"little"}, **traits)


def _several(pickled: bytes) -> bytes:
    good = io.BytesIO()
    torch.save({"model": {"x": torch.zeros(2)}}, good)
    with zipfile.ZipFile(io.BytesIO(good.getvalue())) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    top = next(iter(records)).partition("/")[0]
    return _zip({**records, f"{top}/constants.pkl": pickled, "data.pkl": pickled, f"{top}/code/x.py": b"import os"})


def _legacy(pickled: bytes) -> bytes:
    """The form before zip: magic number, protocol, system, object, keys of storages."""
    return (
        b"".join(pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
        + pickled
        + (pickle.dumps([], 2))
    )


def _tar(pickled: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in ("storages", "tensors", "pickle"):
            info = tarfile.TarInfo(name)
            info.size = len(pickled)
            archive.addfile(info, io.BytesIO(pickled))
    return stream.getvalue()


def _after_header(pickled: bytes) -> bytes:
    """Whole safetensors in front of a pickle."""
    header = json.dumps({"x": {"dtype": "U8", "shape": [len(pickled)], "data_offsets": [0, len(pickled)]}}).encode()
    return len(header).to_bytes(8, "little") + header + pickled + pickled


# Name of the file below a run's checkpoint, and how a pickle is put into it.
CARRIERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "zip": ("model.pt", _torch_zip),
    "zip with a wrong checksum": ("model.pth", lambda pickled: _torch_zip(pickled, broken_sum=True)),
    "zip with several pickles": ("pytorch_model.bin", _several),
    "legacy": ("checkpoint.pth", _legacy),
    "tar": ("checkpoint.tar", _tar),
    "raw pickle": ("weights.pkl", lambda pickled: pickled),
    "distributed metadata": (".metadata", lambda pickled: pickled),
    "DeepSpeed model": ("mp_rank_00_model_states.pt", _torch_zip),
    "DeepSpeed shard": ("bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", _torch_zip),
    "optimizer state": ("optimizer.pt", _torch_zip),
    "as safetensors": ("model.safetensors", _torch_zip),
    "raw as safetensors": ("optimizer.safetensors", lambda pickled: pickled),
    "behind safetensors": ("ema.safetensors", _after_header),
    "as JSON": ("state.json", lambda pickled: pickled),
    "as manifest": ("manifest.json", lambda pickled: pickled),
    "as configuration": ("config.json", lambda pickled: pickled),
}


def carried(gadget: bytes, carrier: str) -> tuple[str, bytes]:
    """Name and content of a file that carries a gadget."""
    name, pack = CARRIERS[carrier]
    return name, pack(_state(gadget))
