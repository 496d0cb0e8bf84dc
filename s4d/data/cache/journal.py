"""What a caching has finished so far, a line each: survives the end of the process at any point."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any


class Journal:
    """JSON lines that are appended one by one; what a killed writer left of its last line is cut off."""

    def __init__(self, path: Path) -> None:
        self.lines: list[dict[str, Any]] = []
        self._stream = path.open("a+b")
        self._stream.seek(0)
        end = 0
        for line in self._stream:
            try:
                document = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n") or not isinstance(document, dict):
                break
            self.lines.append(document)
            end += len(line)
        self._stream.truncate(end)

    def append(self, document: dict[str, Any]) -> None:
        """Add a line; it outlives this process, and a power cut after `sync`."""
        self._stream.write(json.dumps(document).encode("utf-8") + b"\n")
        self._stream.flush()

    def sync(self) -> None:
        """Wait until all lines are on the disk."""
        os.fsync(self._stream.fileno())

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stream.close()
