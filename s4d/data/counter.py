"""Counter-based random numbers: a generator is a pure function of the names of what is drawn."""

from __future__ import annotations

import hashlib

import numpy as np


def _digest(parts: tuple[int | str, ...], size: int) -> int:
    # Length and type in front of each part keep ("a", "bc") apart from ("ab", "c") and 1 apart from "1".
    text = "".join(f"{type(part).__name__[0]}{len(str(part))}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=size).digest(), "little")


def stable_key(*parts: int | str) -> int:
    """Non-negative 63-bit number of the parts, equal on every machine; fits an int64 tensor."""
    return _digest(parts, 8) >> 1


def generator(*parts: int | str) -> np.random.Generator:
    """Philox generator keyed by the parts, customarily (seed, epoch, sample id, view, purpose)."""
    return np.random.Generator(np.random.Philox(key=_digest(parts, 16)))
