"""Near duplicates among perceptual hashes: banded lookup, so that a large set is not compared pair by pair."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from s4d.data.scan.perceptual import HASH_BYTES

# Bits of 256 in which two hashes of one picture may differ. Generated faces stay within 18 when they are saved as JPEG
# of quality 20, within 14 when enlarged twice; different ones of them differ in 70 or more.
MAX_DISTANCE = 20
# Two hashes are compared when one of their bands of 16 bits agrees: always up to a distance of 15, and of two hashes 20
# bits apart, spread by chance, in more than 99 of 100 cases.
BANDS = 16
# Hashes in one band's bucket are compared with at most this many that follow them in sorted order.
NEIGHBOURS = 256


def unpack(hashes: Sequence[str]) -> NDArray[np.uint8]:
    """Hexadecimal hashes as an array (n, HASH_BYTES)."""
    return np.frombuffer(bytes.fromhex("".join(hashes)), dtype=np.uint8).reshape(len(hashes), HASH_BYTES)


def distance(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Number of differing bits of each pair of rows."""
    return np.bitwise_count(left ^ right).sum(axis=-1, dtype=np.int64)


def similar_pairs(hashes: NDArray[np.uint8], groups: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Pairs (i < j) of different groups whose hashes (n, HASH_BYTES) are at most MAX_DISTANCE bits apart."""
    found: set[tuple[int, int]] = set()
    for keys in hashes.reshape(len(hashes), BANDS, -1).view(np.uint16)[:, :, 0].T:
        # Equal hashes lie side by side within a bucket.
        order = np.lexsort((*hashes.view(np.uint64).T, keys))
        sorted_keys = keys[order]
        for step in range(1, min(NEIGHBOURS, len(order) - 1) + 1):
            same = np.flatnonzero(sorted_keys[step:] == sorted_keys[:-step])
            if not same.size:
                break
            left, right = order[same], order[same + step]
            differ = groups[left] != groups[right]
            left, right = left[differ], right[differ]
            near = distance(hashes[left], hashes[right]) <= MAX_DISTANCE
            found.update((min(a, b), max(a, b)) for a, b in zip(left[near].tolist(), right[near].tolist(), strict=True))
    return sorted(found)
