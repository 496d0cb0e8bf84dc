"""What a disk may hold after the power failed in the middle of recorded operations.

Bytes and names that were flushed are there. Of the others any may be: a file may end anywhere or hold zeros where bytes
were to come, and a new, changed or removed name may have reached the disk before an earlier one. This is less than file
systems with a journal promise.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from disk_trace import Operation


@dataclass(kw_only=True)
class Node:
    """A file with its flushed and its later bytes, or a folder with the names that were there at first."""

    is_folder: bool
    names: dict[str, Node] = field(default_factory=dict)
    data: bytes = b""
    later: bytes = b""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A name added to a folder, or with `node` None removed from it; `moved` with it is the removal of an old name."""

    folder: int
    name: str
    node: Node | None
    old_name: str = ""


class Disk:
    """The folder as programs see it, and what is known of it on the disk."""

    def __init__(self, root: str, before: Path) -> None:
        self.root = root
        self.top = _read(before)
        self._seen = {id(node): dict(node.names) for node in _folders(self.top)}
        self._nodes = {id(node): node for node in _folders(self.top)}
        self._pending: list[Change] = []

    def take(self, operation: Operation) -> None:
        """Apply one operation."""
        if operation.kind == "write":
            self._find(operation.path).later += operation.data
            return
        if operation.kind == "flush":
            self._flush(self._find(operation.path))
            return
        parent, name = self._place(operation.path)
        if operation.kind in ("create", "make"):
            node = Node(is_folder=operation.kind == "make")
            self._know(node)
            self._change(Change(folder=id(parent), name=name, node=node))
        elif operation.kind == "rename":
            target, new = self._place(operation.target)
            assert target is parent, "a rename to another folder is not modelled"
            self._change(Change(folder=id(parent), name=new, node=self._seen[id(parent)][name], old_name=name))
        else:
            self._change(Change(folder=id(parent), name=name, node=None))

    def _know(self, node: Node) -> None:
        self._seen[id(node)] = {}
        self._nodes[id(node)] = node

    def _place(self, path: str) -> tuple[Node, str]:
        return self._find(os.path.dirname(path)), os.path.basename(path)

    def _find(self, path: str) -> Node:
        node = self.top
        for part in [part for part in os.path.relpath(path, self.root).split("/") if part != "."]:
            node = self._seen[id(node)][part]
        return node

    def _change(self, change: Change) -> None:
        _apply(self._seen[change.folder], change)
        self._pending.append(change)

    def _flush(self, node: Node) -> None:
        if not node.is_folder:
            node.data, node.later = node.data + node.later, b""
            return
        for change in [change for change in self._pending if change.folder == id(node)]:
            _apply(node.names, change)
            self._pending.remove(change)

    def write_crashed(self, draw: random.Random, target: Path) -> None:
        """One of the states that a crash now may leave, as real files in `target`."""
        names = {key: dict(node.names) for key, node in self._nodes.items()}
        kept = self._surviving(draw)
        for change in kept:
            _apply(names[change.folder], change)
        shutil.rmtree(target, ignore_errors=True)
        _write(self.top, names, target, draw)

    def _surviving(self, draw: random.Random) -> Sequence[Change]:
        kind = draw.randrange(4)
        if kind == 0:
            return []
        if kind == 1:
            return self._pending
        if kind == 2:
            # What a journal would leave.
            return self._pending[: draw.randrange(len(self._pending) + 1)]
        return [change for change in self._pending if draw.random() < 0.5]


def _apply(names: dict[str, Node], change: Change) -> None:
    if change.node is None:
        names.pop(change.name, None)
        return
    names[change.name] = change.node
    if change.old_name and names.get(change.old_name) is change.node:
        del names[change.old_name]


def _read(path: Path) -> Node:
    if not path.is_dir():
        return Node(is_folder=False, data=path.read_bytes())
    return Node(is_folder=True, names={entry.name: _read(entry) for entry in path.iterdir()})


def _folders(node: Node) -> list[Node]:
    return [node, *(each for child in node.names.values() for each in _folders(child))]


def _write(node: Node, names: dict[int, dict[str, Node]], target: Path, draw: random.Random) -> None:
    if node.is_folder:
        target.mkdir()
        for name, child in names[id(node)].items():
            _write(child, names, target / name, draw)
        return
    later = node.later
    if later:
        cut = draw.choice((0, len(later), draw.randrange(len(later) + 1)))
        # The size may be on the disk before the bytes are.
        later = later[:cut] + bytes(draw.choice((0, len(later) - cut)))
    target.write_bytes(node.data + later)
