"""Counter-based random streams: every rendered sample owns the generator of (seed, kind, index)."""

from __future__ import annotations

import hashlib

import numpy as np

KINDS: dict[str, int] = {"identity": 1, "image": 2, "clip": 3, "pretrain": 4}


def stream(seed: int, kind: str, index: int) -> np.random.Generator:
    """Generator that depends on nothing but its key, so that order and worker count cannot change a sample."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, KINDS[kind], index])))


def name_digest(seed: int, kind: str, index: int) -> str:
    """Hexadecimal name of a sample that tells nothing about its class."""
    return hashlib.sha224(f"{seed}/{kind}/{index}".encode()).hexdigest()


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Uniform draw as a Python float; numpy scalars would promote float32 arithmetic to float64."""
    return float(rng.uniform(low, high))


def normal(rng: np.random.Generator, spread: float, limit: float = 2.0) -> float:
    """Gaussian draw of the given spread, clipped at `limit` spreads so that no face falls apart."""
    return float(np.clip(rng.standard_normal(), -limit, limit)) * spread
