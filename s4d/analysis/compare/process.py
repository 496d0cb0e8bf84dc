"""A side in a process of its own that lives through all cases, with proof of what it imported."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from s4d.analysis.compare import child
from s4d.analysis.compare.rounds import AbsentError
from s4d.errors import DataError


class ProcessSide:
    """Talks to one child; DataError where it fails, or where it runs other code than its tree's.

    With `may_fail` a case that fails counts as absent: a revision of long ago may have had another interface.
    """

    def __init__(self, name: str, tree: Path, device: str, native: Path | None, *, may_fail: bool) -> None:
        self.name = name
        self._may_fail = may_fail
        self._tree = tree
        self._native = native
        command = [sys.executable, "-P", str(Path(child.__file__)), str(tree), device]
        command += [str(native)] if native is not None else []
        # Its own session: Ctrl-C reaches the parent alone, which ends it.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def prove(self) -> dict[str, Any]:
        """Where its packages and its native library lie; DataError unless that is its own tree and build."""
        found = self._ask(do="origins")
        for package, path in found["packages"].items():
            if path is None or not Path(path).resolve().is_relative_to(self._tree.resolve()):
                raise DataError(f"{self.name}: {package} was imported from {path}, not from {self._tree}")
        expected = [str((self._native / "libs4d_native.so").resolve())] if self._native is not None else []
        if found["native"] != expected:
            what = ", ".join(found["native"]) or f"no native library ({found['native_reason']})"
            raise DataError(f"{self.name}: {what} was loaded, not {', '.join(expected) or 'none'}")
        return found

    def prepare(self, case: str) -> float:
        """See `rounds.Side`."""
        answer = self._answer(do="prepare", case=case)
        if "missing" in answer:
            raise AbsentError(answer["missing"])
        if "error" in answer and self._may_fail:
            raise AbsentError(answer["error"])
        seconds: float = self._checked(answer, case)["seconds"]
        return seconds

    def time(self, calls: int) -> float:
        """See `rounds.Side`."""
        seconds: float = self._ask(do="time", calls=calls)["seconds"]
        return seconds

    def release(self) -> None:
        """See `rounds.Side`."""
        self._ask(do="release")

    def end(self) -> None:
        """Kill the process and wait for it."""
        self._process.kill()
        self._process.communicate()

    def _ask(self, **request: object) -> dict[str, Any]:
        return self._checked(self._answer(**request), str(request["do"]))

    def _checked(self, answer: dict[str, Any], what: str) -> dict[str, Any]:
        if "error" in answer:
            raise DataError(f"{self.name}: {what}: {answer['error']}")
        return answer

    def _answer(self, **request: object) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise DataError(f"{self.name}: its process ended with status {self._process.wait()} in {request}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def both_sides(
    base: Path, head: Path, device: str, natives: tuple[Path | None, Path | None]
) -> Iterator[tuple[ProcessSide, ProcessSide]]:
    """Processes of both trees, each proven to run its own code, ended afterwards."""
    sides: list[ProcessSide] = []
    try:
        for name, tree, native in (("base", base, natives[0]), ("working tree", head, natives[1])):
            sides.append(ProcessSide(name, tree, device, native, may_fail=tree == base))
            sides[-1].prove()
        yield sides[0], sides[1]
    finally:
        for side in sides:
            side.end()
