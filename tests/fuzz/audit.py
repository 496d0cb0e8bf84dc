"""Watches what the interpreter does while an untrusted file is read: nothing but reading below one folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NEVER = ("exec", "compile", "import", "pickle.find_class", "os.system", "subprocess.Popen", "ctypes.dlopen")
NEVER_STARTING = ("marshal.", "socket.", "os.exec", "os.posix_spawn", "os.fork", "urllib.", "webbrowser.")
_state: dict[str, object] = {"root": None, "found": []}


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    root = _state["root"]
    if root is None:
        return
    bad = event in NEVER or event.startswith(NEVER_STARTING)
    if event == "open" and isinstance(arguments[0], str | bytes):
        path = os.fsdecode(arguments[0])
        # Sources are read where a line of a traceback is looked up.
        source = path.endswith(".py") and arguments[1] in ("r", "rb")
        bad = not os.path.abspath(path).startswith((str(root), "/proc/self/")) and not source
    if bad:
        _state["found"].append(f"{event} {arguments[:2]!r}"[:200])  # type: ignore[attr-defined]


sys.addaudithook(_hook)


@contextmanager
def watched(root: Path) -> Iterator[None]:
    """AssertionError if code was run, a module imported, a socket opened or a file opened outside `root`."""
    found: list[str] = []
    _state.update(root=root.resolve(), found=found)
    try:
        yield
    finally:
        _state["root"] = None
    assert not found, f"while reading: {found[:3]}"
