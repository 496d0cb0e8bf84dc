"""Takes the lease of a folder, says so, and keeps it: python lease_holder.py <folder> <host or -> <seconds of silence>.

Ends with status 3 where the lease is refused or lost.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])

from engine.errors import StateRefusedError  # noqa: E402 (found through the line above)
from engine.lease import Lease  # noqa: E402


def hold(folder: Path, host: str, silence: float) -> None:
    """Keep the lease for as long as it is ours; `host` makes this process one of another machine."""
    lease = Lease(folder, silence_seconds=silence)
    if host != "-":
        lease._me |= {"host": host, "boot": f"boot of {host}"}
    lease.take()
    print("taken", flush=True)
    while True:
        lease.check()
        time.sleep(0.01)


if __name__ == "__main__":
    try:
        hold(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
    except StateRefusedError as error:
        print(f"refused: {error}", flush=True)
        sys.exit(3)
