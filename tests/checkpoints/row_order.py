"""R3: the order in which a save puts things on the disk, seen from the system calls of a real one."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from disk_trace import MISSING, Operation
from traced_saves import Situation, record_all

HELD: dict[str, list[Situation]] = {}


def prepare(folder: Path) -> None:
    """Nothing is shared: every case records its own saves."""


def run(number: int, folder: Path) -> str:
    """Record a save in each situation and look at its order."""
    if MISSING:
        return f"skipped: {MISSING}"
    for situation in record_all(folder):
        found = violations(situation.operations)
        assert not found, f"{situation.name}: {found}"
        pointers = [operation for operation in situation.operations if operation.target.endswith("/latest")]
        assert pointers, f"{situation.name}: nothing was saved"
    return "in order"


class Order:
    """What is not on the disk for sure while the operations of saves go by."""

    def __init__(self) -> None:
        # Files whose bytes, and paths whose names, would be lost with the power.
        self.dirty: set[str] = set()
        self.fresh: set[str] = set()
        # The newest checkpoint is not the one that `latest` names.
        self.unpointed = False
        self.found: list[str] = []

    def take(self, at: int, operation: Operation) -> None:
        """Look at one operation."""
        path = PurePosixPath(operation.path)
        if operation.kind in ("create", "make", "write"):
            self._expect(at, not any(map(is_final, (path, *path.parents))), f"{path} is written under its final name")
            (self.dirty if operation.kind == "write" else self.fresh).add(str(path))
        elif operation.kind == "flush":
            self.dirty.discard(str(path))
            self.fresh = {name for name in self.fresh if str(PurePosixPath(name).parent) != str(path)}
        elif operation.kind == "rename":
            self._rename(at, path, PurePosixPath(operation.target))
        else:
            aside = [parent for parent in (path, *path.parents) if parent.name.startswith(".tmp-")]
            self._expect(at, bool(aside) or path.name == "best", f"{path} is removed under its final name")
            half = [
                str(parent) for parent in aside if parent.name.startswith(".tmp-gone") and str(parent) in self.fresh
            ]
            self._expect(at, not half, f"{path} is removed before the name {half} is on the disk")

    def _rename(self, at: int, source: PurePosixPath, target: PurePosixPath) -> None:
        lost = [name for name in self.dirty | self.fresh if f"{name}/".startswith(f"{source}/") and name != str(source)]
        self._expect(at, not lost and str(source) not in self.dirty, f"{target} is named before {lost} are on the disk")
        steps = [name for name in self.fresh if is_final(PurePosixPath(name))]
        if target.name in ("latest", "best"):
            self._expect(at, not steps, f"{target.name} is replaced before {steps} are on the disk")
            self.unpointed &= target.name != "latest"
        elif target.name.startswith(".tmp-gone"):
            pointed = not self.unpointed and not any(name.endswith("/latest") for name in self.fresh)
            self._expect(at, not steps, f"{source} is removed before {steps} are on the disk")
            self._expect(at, pointed or source.name.endswith("-replaced"), f"{source} is removed before the pointer")
        elif not target.name.endswith("-replaced"):
            self._expect(at, is_final(target), f"{source} becomes {target}")
            self.unpointed = True
        self.fresh.discard(str(source))
        self.fresh.add(str(target))

    def _expect(self, at: int, holds: bool, problem: str) -> None:
        if not holds:
            self.found.append(f"operation {at}: {problem}")


def is_final(path: PurePosixPath) -> bool:
    """True for the name of a checkpoint that a loader looks for."""
    return path.name.startswith("step-") and not path.name.endswith("-replaced")


def violations(operations: list[Operation]) -> list[str]:
    """What is out of order."""
    order = Order()
    for at, operation in enumerate(operations):
        order.take(at, operation)
    return order.found + [f"{path} is never flushed" for path in sorted(order.dirty)]
