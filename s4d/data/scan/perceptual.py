"""Small pictures of frames, and the perceptual hash that tells which frames look alike.

The hash says for each of 256 low frequencies of the brightness whether it lies above their median, as in the DCT hashes
in common use; 256 bits, because faces cut out the same way look too much alike for 64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from s4d.data.pillow_memory import picture_of

HASH_BYTES = 32
SIDE = 64
FREQUENCIES = 16
# Brightness that hardly varies has no structure to hash, only noise.
FLAT = 2.0
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def _cosines() -> NDArray[np.float32]:
    """Cosine of frequencies 1 to 16 at the centres of 64 pixels, (FREQUENCIES, SIDE)."""
    frequency = np.arange(1, FREQUENCIES + 1)[:, None]
    place = (np.arange(SIDE) + 0.5)[None, :] / SIDE
    return np.cos(np.pi * frequency * place).astype(np.float32)


COSINES = _cosines()


def small_picture(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB pixels (H, W, 3) averaged down to (SIDE, SIDE, 3)."""
    return np.asarray(picture_of(pixels).resize((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=2.0))


def brightness(small: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Luma of a small picture, (SIDE, SIDE), 0 to 255."""
    luma: NDArray[np.float32] = small @ LUMA
    return luma


def perceptual_hash(small: NDArray[np.uint8]) -> str:
    """64 hexadecimal digits for a small picture; empty where there is nothing to see."""
    luma = brightness(small)
    if luma.std() < FLAT:
        return ""
    low = COSINES @ luma @ COSINES.T
    return np.packbits(low > np.median(low)).tobytes().hex()
