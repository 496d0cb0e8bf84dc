"""How much memory a process that decodes unknown files may take."""

from __future__ import annotations

import resource

# What a process may take beyond what it has when it starts; the pixels of finished batches lie in shared memory and do
# not count. Four views of a clip at 1920 x 1080 take 0.4 GB.
MEMORY_BYTES = 1 << 30


def limit_memory() -> None:
    """Let this process have `MEMORY_BYTES` more than it has; it gets a MemoryError then, or ends."""
    limit = _data_bytes() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))


def _data_bytes() -> int:
    """Private writable memory of this process."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmData"))
