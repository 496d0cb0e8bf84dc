"""Damage to checkpoints and model folders that knows their structure: safetensors headers, JSON files, names, links."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_bytes import TELLING, damaged

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**70), 1e308, 0.5, "", "0", "1e-3", "nan", "F64", "é" * 3),
    *("..", "../../x", "/etc/passwd", "a/b", "a\x00b", "\x1b[31m", "\u202e", "x" * 5000, [], {}, [[]], {"": {}}),
    *([0], [-1], [2**62, 2**62], ["1"], [1.5], [True], {"a": 1}, [1] * 70),
)
KEYS = (
    "",
    "x",
    "format",
    "..",
    "../../escape",
    "/etc/passwd",
    "a\nb",
    "\x1b]0;t\x07",
    "__metadata__",
    "__class__",
    "é",
)
NESTED = (b"[" * 100_000, b'{"a":' * 50_000, b"[" * 500 + b"]" * 500, b'"' + b"\\" * 3)
RAW = (
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"1e999",
    b"0x10",
    b"'a'",
    b"\xff\xfe",
    b"01",
    b"1_0",
    b"\xed\xa0\x80",
    b'"\\ud800"',
)
POINTERS = (
    *("", "\n", "..", "../..", ".", "/etc", "step-99999999", "step-00000001\n", "step-00000001/../step-00000002"),
    *("\x00", "\x1b[31m", "x" * 5000, "step-00000002\nstep-00000001", "STEP-00000002", "model.safetensors"),
)


def damage(folder: Path, checkpoint: Path, draw: np.random.Generator, outside: Path) -> str:
    """Change one or two things below `folder`, of which `checkpoint` is the newest one; says what."""
    kinds = [KINDS[int(draw.integers(len(KINDS)))] for _ in range(int(draw.integers(1, 3)))]
    for kind in kinds:
        kind(folder, checkpoint, draw, outside)
    return " and ".join(kind.__name__ for kind in kinds)


def _any_file(checkpoint: Path, draw: np.random.Generator, *suffixes: str) -> Path | None:
    files = sorted(path for path in checkpoint.iterdir() if path.suffix in suffixes and _is_plain(path))
    return files[int(draw.integers(len(files)))] if files else None


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _bytes(folder: Path, checkpoint: Path, draw: np.random.Generator, outside: Path) -> None:
    path = _any_file(checkpoint, draw, ".json", ".safetensors")
    if path:
        path.write_bytes(damaged(path.read_bytes(), draw))


def _one_bit(folder: Path, checkpoint: Path, draw: np.random.Generator, outside: Path) -> None:
    path = _any_file(checkpoint, draw, ".json", ".safetensors")
    if path and path.stat().st_size:
        data = bytearray(path.read_bytes())
        data[int(draw.integers(len(data)))] ^= 1 << int(draw.integers(8))
        path.write_bytes(data)


def _header(folder: Path, checkpoint: Path, draw: np.random.Generator, outside: Path) -> None:
    """The header of a tensor file, with its length made right, and half of the time with its checksum too."""
    path = _any_file(checkpoint, draw, ".safetensors")
    if path is None:
        return
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8:start])
        text = _changed_header(header, draw) if isinstance(header, dict) else data[8:start]
    except (ValueError, RecursionError):
        return
    text += b" " * int(draw.choice((0, 0, 1, -len(text) % 8, 100_000)))
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[start:])
    if draw.integers(2):
        _sign(checkpoint, path)


def _changed_header(header: dict[str, Any], draw: np.random.Generator) -> bytes:
    names = sorted(header)
    name, other = (names[int(draw.integers(len(names)))] for _ in range(2)) if names else ("x", "x")
    part = header.get(name) if isinstance(header.get(name), dict) else {}
    kind = int(draw.integers(9))
    if kind == 0:
        part["dtype"] = str(draw.choice(("F64", "F16", "BF16", "I32", "U8", "BOOL", "F8_E4M3", "f32", "", "\x00")))
    elif kind == 1:
        part["shape"] = VALUES[int(draw.integers(len(VALUES)))]
    elif kind == 2 and isinstance(part.get("shape"), list):
        part["shape"] = part["shape"][::-1] + [1] * int(draw.integers(2))
    elif kind == 3:
        offsets = [int(draw.choice((0, 1, 4, 8, *TELLING))) for _ in range(2)]
        part["data_offsets"] = offsets if draw.integers(2) else VALUES[int(draw.integers(len(VALUES)))]
    elif kind == 4 and isinstance(header.get(other), dict):
        # Two tensors over the same bytes, or each under the other's name.
        part["data_offsets"], header[other]["data_offsets"] = (
            header[other].get("data_offsets"),
            part.get("data_offsets"),
        )
    elif kind == 5 and name in header:
        header[KEYS[int(draw.integers(len(KEYS)))]] = header.pop(name)
    elif kind == 6:
        header["__metadata__"] = VALUES[int(draw.integers(len(VALUES)))]
    elif kind == 7:
        header.pop(name, None)
    text = json.dumps(header, separators=(",", ":")).encode()
    return _raw(text, draw) if kind == 8 else text


def _length(folder: Path, checkpoint: Path, draw: np.random.Generator, outside: Path) -> None:
    """The length of a header: more than there is, more than there can be, or a little off."""
    path = _any_file(checkpoint, draw, ".safetensors")
    if path:
        data = bytearray(path.read_bytes())
        length = int.from_bytes(data[:8], "little")
        choices = (0, 1, length - 1, length + 1, length + 8, len(data), 100_000_001, 2**31, 2**63, 2**64 - 1)
        data[:8] = (choices[int(draw.integers(len(choices)))] % 2**64).to_bytes(8, "little")
        path.write_bytes(data)
        if draw.integers(2):
            _sign(checkpoint, path)


def _json(folder: Path, checkpoint: Path, draw: np.random.Generator, outside: Path) -> None:
    """A value or a key of a JSON file, half of the time with the checksums made right."""
    path = _any_file(checkpoint, draw, ".json")
    if path is None:
        return
    try:
        tree = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return
    if draw.integers(4) == 0:
        data = _raw(path.read_bytes(), draw)
    else:
        _change(tree, draw)
        data = (json.dumps(tree, indent=1) + "\n").encode("utf-8", "surrogatepass")
    path.write_bytes(data)
    if draw.integers(2):
        _sign(checkpoint, path)


def _change(tree: Any, draw: np.random.Generator) -> None:
    node = tree
    while isinstance(node, dict | list) and node:
        key = sorted(node)[int(draw.integers(len(node)))] if isinstance(node, dict) else int(draw.integers(len(node)))
        if isinstance(node[key], dict | list) and node[key] and draw.integers(4):
            node = node[key]
            continue
        kind = int(draw.integers(4))
        value = VALUES[int(draw.integers(len(VALUES)))]
        if kind == 0:
            del node[key]
        elif kind == 1 and isinstance(node, dict):
            node[KEYS[int(draw.integers(len(KEYS)))]] = node.pop(key)
        elif kind == 2 and isinstance(node[key], int | float):
            node[key] = str(node[key])
        else:
            node[key] = value
        return


def _raw(text: bytes, draw: np.random.Generator) -> bytes:
    """What no JSON library writes: keys given twice, numbers that are none, nesting without end."""
    at = [place for place, byte in enumerate(text) if byte in b":,{["]
    place = at[int(draw.integers(len(at)))] + 1 if at else 0
    kind = int(draw.integers(4))
    if kind == 0:
        return text[:place] + RAW[int(draw.integers(len(RAW)))] + text[place:]
    if kind == 1:
        return text[:place] + NESTED[int(draw.integers(len(NESTED)))] + text[place:]
    if kind == 2:
        return text.replace(b"{", b'{"format": 2, "format": 2, ', 1)
    begin = text.find(b'"', place)
    end = text.find(b",", begin) + 1
    return text[:end] + text[begin:end] + text[end:] if 0 <= begin < end else text + b"{}"


def _sign(checkpoint: Path, path: Path) -> None:
    """Make the manifest agree with what was done to a file, as far as it can be without its tensors."""
    manifest = checkpoint / "manifest.json"
    # An earlier damage may have left a pipe or a device there, which would keep us waiting.
    if not _is_plain(manifest) or not _is_plain(path):
        return
    try:
        content = json.loads(manifest.read_bytes())
        if path != manifest:
            data = path.read_bytes()
            entry = content["files"][path.name]
            start = 8 + int.from_bytes(data[:8], "little")
            entry["bytes"] = len(data)
            sums = {"header": data[:start]} if "header" in entry else {"sha256": data}
            entry.update({key: hashlib.sha256(part).hexdigest() for key, part in sums.items()})
        bare = {key: value for key, value in content.items() if key != "sha256"}
        digest = hashlib.sha256((json.dumps(bare, indent=1) + "\n").encode()).hexdigest()
        manifest.write_text(json.dumps({**bare, "sha256": digest}, indent=1) + "\n")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return


def _file_names(folder: Path, checkpoint: Path, draw: np.random.Generator, outside: Path) -> None:
    """The manifest names files elsewhere, and its checksum is right."""
    manifest = checkpoint / "manifest.json"
    if not _is_plain(manifest):
        return
    try:
        content = json.loads(manifest.read_bytes())
        files = content["files"]
        name = sorted(files)[int(draw.integers(len(files)))]
        other = str(draw.choice((f"../{checkpoint.name}/{name}", str(checkpoint / name), str(outside / "other.json"))))
        files[other] = files.pop(name) if draw.integers(2) else files[name]
        manifest.write_text(json.dumps(content, indent=1) + "\n")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return
    _sign(checkpoint, manifest)


def _link(folder: Path, checkpoint: Path, draw: np.random.Generator, outside: Path) -> None:
    """A link, a pipe or a folder in the place of a file."""
    path = _any_file(checkpoint, draw, ".json", ".safetensors")
    if path is None:
        return
    kind = int(draw.integers(6))
    copy = outside / f"moved-{path.name}"
    copy.write_bytes(path.read_bytes())
    path.unlink()
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.mkdir()
    else:
        path.symlink_to((copy, "/dev/zero", "/etc/passwd", outside / "nowhere")[kind - 2])


def _pointer(folder: Path, checkpoint: Path, draw: np.random.Generator, outside: Path) -> None:
    """What names the newest checkpoint names something else."""
    path = checkpoint.parent / "latest"
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    kind = int(draw.integers(8))
    if kind == 0:
        path.symlink_to("/dev/zero")
    elif kind == 1:
        os.mkfifo(path)
    elif kind == 2:
        path.mkdir(exist_ok=True)
    elif kind == 3:
        path.write_bytes(draw.bytes(40))
    else:
        path.write_text(POINTERS[int(draw.integers(len(POINTERS)))])


def _gone(folder: Path, checkpoint: Path, draw: np.random.Generator, outside: Path) -> None:
    path = _any_file(checkpoint, draw, ".json", ".safetensors")
    if path:
        path.unlink()


def _swapped(folder: Path, checkpoint: Path, draw: np.random.Generator, outside: Path) -> None:
    one, two = _any_file(checkpoint, draw, ".safetensors"), _any_file(checkpoint, draw, ".safetensors", ".json")
    if one and two:
        first, second = one.read_bytes(), two.read_bytes()
        one.write_bytes(second)
        two.write_bytes(first)


KINDS: tuple[Callable[[Path, Path, np.random.Generator, Path], None], ...] = (
    *(_bytes, _one_bit, _header, _header, _header, _length, _json, _json, _json),
    *(_file_names, _link, _pointer, _gone, _swapped),
)
