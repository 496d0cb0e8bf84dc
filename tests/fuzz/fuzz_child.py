"""Runs cases of one kind one after another and writes a line of JSON about each; may die or hang at any of them.

python fuzz_child.py <module> <folder> <seconds> <case> ...
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import resource
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
    module = importlib.import_module(sys.argv[1])
    folder, seconds = Path(sys.argv[2]), float(sys.argv[3])
    # Lines go to the standard output that was; whatever libraries print goes nowhere.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    logging.disable()
    folder.mkdir(parents=True, exist_ok=True)
    module.prepare(folder)
    limit_memory()
    small = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    print(json.dumps({"ready": True}), file=out, flush=True)
    for text in sys.argv[4:]:
        if time.monotonic() - began > seconds:
            return
        number = int(text)
        line: dict[str, object] = {"case": number}
        try:
            line["outcome"] = module.run(number, folder)
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            line["failure"] = f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
        growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - small
        if growth > GROWTH_BYTES:
            line["failure"] = f"grew by {growth >> 20} MiB"
        print(json.dumps(line), file=out, flush=True)
        if growth > GROWTH_BYTES:
            return


if __name__ == "__main__":
    main()
