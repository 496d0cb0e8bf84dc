"""Philox4x32-10 in plain tensor arithmetic: random numbers as a pure function of a counter and a key.

Every word is an unsigned 32-bit number held in an int64 tensor, so CPU and GPU give the same bits, and a Triton kernel
gives them too: ``tl.philox(key, c0, c1, c2, c3)`` with ``key = key0 | key1 << 32`` is the same function.

Counter layout of ``NoiseKey``, one Philox call per four columns::

    key     = first two words of philox((epoch low, epoch high, layer, NOISE_STREAM), key = (seed low, seed high)),
              `layer_key`
    counter = (sample_key low, sample_key high, token, column // 4)
    column  = word (column % 4), taken as a pair (radius word, angle word) by Box-Muller:
              words 0, 1 -> columns 0 (cos), 1 (sin); words 2, 3 -> columns 2 (cos), 3 (sin)

Uniforms use the upper 24 bits of a word, which float32 holds exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10

# Fourth counter word of the key derivation; keeps this stream apart from any other user of the same seed.
NOISE_STREAM = 0x4E4F4953


Word = TypeVar("Word", int, Tensor)


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Word, Word]) -> tuple[Tensor, ...]:
    """Philox4x32-10 of four broadcastable int64 counter words under a key of two words; words are taken modulo 2^32.

    The words of the key are host integers or int64 tensors that broadcast with the counter.
    """
    if len(counter) != 4:
        raise ValueError(f"philox: expected 4 counter words, got {len(counter)}")
    return _rounds(tuple(torch.broadcast_tensors(*(word & _WORD for word in counter))), key)


def _rounds(counter: tuple[Word, ...], key: tuple[Any, Any]) -> tuple[Word, ...]:
    """The ten rounds, on tensors or on host integers alike."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # In int64 the product wraps modulo 2^64 and the shift is arithmetic; the masks leave the unsigned halves.
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((product1 >> 32) & _WORD) ^ c1 ^ (k0 & _WORD),
            product1 & _WORD,
            ((product0 >> 32) & _WORD) ^ c3 ^ (k1 & _WORD),
            product0 & _WORD,
        )
        k0, k1 = k0 + _KEY_STEPS[0], k1 + _KEY_STEPS[1]
    return c0, c1, c2, c3


def uniform(words: Tensor) -> Tensor:
    """Float64 uniforms in [0, 1) with 24 bits from int64-held words, elementwise."""
    return (words >> 8).to(torch.float64) * 2.0**-24


def normal(radius_words: Tensor, angle_words: Tensor) -> tuple[Tensor, Tensor]:
    """Two independent unit normals (float64) of each pair of words, by Box-Muller; at most 5.77 in size."""
    radius = torch.sqrt(-2.0 * torch.log(uniform(radius_words) + 2.0**-24))
    angle = uniform(angle_words) * (2.0 * math.pi)
    return radius * torch.cos(angle), radius * torch.sin(angle)


def layer_key(seed: int, epoch: int, layer: int) -> int:
    """The Philox key of the router noise of one layer in one epoch, as a signed 64-bit number."""
    counter = (epoch & _WORD, (epoch >> 32) & _WORD, layer & _WORD, NOISE_STREAM)
    low, high, *_ = _rounds(counter, (seed & _WORD, (seed >> 32) & _WORD))
    return ((high << 32 | low) ^ (1 << 63)) - (1 << 63)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class NoiseKey:
    """What the router noise of one layer depends on; the place of a token in the batch is no part of it.

    ``key`` (1,) int64 is a ``layer_key``: on the device, so that a captured step takes the key of another epoch.
    ``sample_key`` (T,) int64 names the sample of each token and ``token`` (T,) int64 the token in it.
    """

    key: Tensor
    sample_key: Tensor
    token: Tensor

    def __post_init__(self) -> None:
        if self.key.dtype != torch.int64 or self.key.shape != (1,):
            raise ValueError(f"NoiseKey.key: expected int64 (1,), got {self.key.dtype} {tuple(self.key.shape)}")
        for name in ("sample_key", "token"):
            value: Tensor = getattr(self, name)
            if value.dtype != torch.int64 or value.ndim != 1:
                raise ValueError(f"NoiseKey.{name}: expected int64 (T,), got {value.dtype} {tuple(value.shape)}")
        if self.sample_key.shape != self.token.shape:
            raise ValueError(
                f"NoiseKey: expected one token per sample_key {tuple(self.sample_key.shape)}, "
                f"got {tuple(self.token.shape)}"
            )

    @classmethod
    def of(cls, *, seed: int, epoch: int, layer: int, sample_key: Tensor, token: Tensor) -> NoiseKey:
        """The key of a layer in an epoch, put where the counters are."""
        key = torch.tensor([layer_key(seed, epoch, layer)], device=token.device)
        return cls(key=key, sample_key=sample_key, token=token)

    def normal(self, num_columns: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Unit normals (T, num_columns); computed in float64, rounded once to ``dtype``."""
        blocks = torch.arange((num_columns + 3) // 4, device=self.token.device)
        sample, token = self.sample_key[:, None], self.token[:, None]
        w0, w1, w2, w3 = philox((sample, sample >> 32, token, blocks), (self.key, self.key >> 32))
        columns = torch.stack((*normal(w0, w1), *normal(w2, w3)), dim=-1)
        return columns.flatten(1)[:, :num_columns].to(dtype)
