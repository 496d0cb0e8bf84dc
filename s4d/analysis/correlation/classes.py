"""Classes that two heads have in common, by name, and permutations of them as a test of what an alignment is worth."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from s4d.errors import UsageError

# All of seven classes.
MAX_PERMUTATIONS = 5040


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedClasses:
    """Names that both heads have, in the static head's order, and those that only one of them has."""

    names: tuple[str, ...]
    only_static: tuple[str, ...]
    only_dynamic: tuple[str, ...]

    def to_dict(self) -> dict[str, list[str]]:
        """Plain values for JSON."""
        return {
            "shared": list(self.names),
            "only_static": list(self.only_static),
            "only_dynamic": list(self.only_dynamic),
        }


def shared_classes(static: Sequence[str], dynamic: Sequence[str]) -> SharedClasses:
    """Classes of two heads matched by name; UsageError for fewer than two in common."""
    names = tuple(name for name in static if name in dynamic)
    if len(names) < 2:
        raise UsageError(
            f"the static head ({', '.join(static)}) and the dynamic head ({', '.join(dynamic)}) have "
            f"{len(names)} classes in common, at least 2 are needed"
        )
    return SharedClasses(
        names=names,
        only_static=tuple(name for name in static if name not in names),
        only_dynamic=tuple(name for name in dynamic if name not in names),
    )


def columns_of(names: Sequence[str], classes: Sequence[str], where: str) -> list[int]:
    """Places of `names` in a head's `classes`; UsageError, beginning with `where`, for a class that it lacks."""
    missing = [name for name in names if name not in classes]
    if missing:
        raise UsageError(f"{where}: has no class {missing[0]!r} (its classes: {', '.join(classes)})")
    return [list(classes).index(name) for name in names]


def class_permutations(classes: int, seed: int = 0) -> NDArray[np.int64]:
    """Orders of the classes, one a row, the given order first: all of them, or 5,040 drawn where there are more."""
    if math.factorial(classes) <= MAX_PERMUTATIONS:
        return np.array(list(itertools.permutations(range(classes))), dtype=np.int64)
    generator = np.random.default_rng(seed)
    drawn = [generator.permutation(classes) for _ in range(MAX_PERMUTATIONS - 1)]
    return np.array([np.arange(classes), *drawn], dtype=np.int64)


def share_as_large(values: NDArray[np.float64]) -> float:
    """The p-value of the first of `values`: the share of all, itself included, that are no smaller."""
    # Orders that give the same sum in another order of addition must count as equal.
    return float(np.mean(values >= values[0] - 1e-12))
