"""Runs cases of one row one after another and writes a line of JSON about each; may die or hang at any of them.

python case_child.py <folder of the module> <module> <small, measured> <folder> <seconds> <case> ...
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import time
import traceback
from pathlib import Path

from s4d.data.memory_limit import MEMORY_BYTES, limit_memory

# A little above the limit of a decoding process: what is mapped from files counts as resident too.
GROWTH_BYTES = MEMORY_BYTES + (64 << 20)


def main() -> None:
    """Run the cases until they or the seconds are over."""
    began = time.monotonic()
    source, name, traits, work, seconds, *cases = sys.argv[1:]
    sys.path.insert(0, source)
    module = importlib.import_module(name)
    folder, small, measured = Path(work), "small" in traits, "measured" in traits
    # Lines go to the standard output that was; whatever libraries print goes nowhere.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    logging.disable()
    folder.mkdir(parents=True, exist_ok=True)
    module.prepare(folder)
    if small:
        limit_memory()
    at_first = _most_memory()
    print(json.dumps({"ready": True}), file=out, flush=True)
    for text in cases:
        if time.monotonic() - began > float(seconds):
            return
        number = int(text)
        line: dict[str, object] = {"case": number}
        try:
            found = module.run(number, folder)
            line["outcome"] = found[0] if measured else found
            if measured:
                line["value"] = found[1]
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            line["failure"] = f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
        growth = _most_memory() - at_first
        if small and growth > GROWTH_BYTES:
            line["failure"] = f"grew by {growth >> 20} MiB"
        print(json.dumps(line), file=out, flush=True)
        if small and growth > GROWTH_BYTES:
            return


def _most_memory() -> int:
    """Most bytes this program has had resident; `getrusage` would count those of the one that started it too."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
