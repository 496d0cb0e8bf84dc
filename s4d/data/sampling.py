"""Which frames of a clip are taken: index rules for training and for test windows, n frames in, F indices out.

`window` covers a short clip by a smaller stride, never by freezing its last frame. `release` and `release_pretrain` are
the rules of the released fine-tuning and pre-training code, which do freeze it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Indices = tuple[int, ...]


def _spread(n: int, num_frames: int, phase: float) -> Indices:
    """One index from each of F equal parts of [0, n), all at the same relative place `phase` in [0, 1)."""
    return tuple(min(n - 1, int((i + phase) * n / num_frames)) for i in range(num_frames))


def _window(n: int, num_frames: int, stride: int, rng: np.random.Generator) -> Indices:
    last = n - 1 - (num_frames - 1) * stride
    if last >= 0:
        start = int(rng.integers(0, last + 1))
        return tuple(range(start, start + num_frames * stride, stride))
    phase = float(rng.random())
    return _spread(n, num_frames, phase if n >= num_frames else 0.5)


def _release(n: int, num_frames: int, stride: int, rng: np.random.Generator) -> Indices:
    span = num_frames * stride
    if n <= span:
        index = np.linspace(0, n, num=n // stride)
        index = np.concatenate((index, np.full(num_frames - n // stride, float(n))))
        return tuple(int(i) for i in np.clip(index, 0, n - 1))
    end = int(rng.integers(span, n))
    index = np.clip(np.linspace(end - span, end, num=num_frames), end - span, end - 1)
    return tuple(int(i) for i in index)


def _release_pretrain(n: int, num_frames: int, stride: int, rng: np.random.Generator) -> Indices:
    offset = int(rng.integers(0, max(0, n - num_frames * stride) + 1))
    indices = []
    for _ in range(num_frames):
        indices.append(offset)
        if offset + stride < n:
            offset += stride
    return tuple(indices)


TRAIN_RULES: dict[str, Callable[[int, int, int, np.random.Generator], Indices]] = {
    "window": _window,
    "release": _release,
    "release_pretrain": _release_pretrain,
}


def train_indices(rule: str, n: int, num_frames: int, stride: int, rng: np.random.Generator) -> Indices:
    """F frame indices of a training view of a clip of n frames, by a row of `TRAIN_RULES`."""
    _check(n)
    return TRAIN_RULES[rule](n, num_frames, stride, rng)


def covering_window(n: int, num_frames: int, stride: int, *, view: int, views: int) -> Indices:
    """Window `view` of `views` that together cover the whole clip; windows differ where the clip has the frames.

    Windows that would lie less than a stride apart are stretched over the whole clip and take turns between its frames.
    """
    _check(n)
    span = num_frames * stride
    length = min(n, max(span, -(-n // views)))
    if n - length < (views - 1) * stride or length == n:
        return _spread(n, num_frames, (view + 0.5) / views)
    start = round(view * (n - length) / (views - 1))
    return tuple(start + index for index in _spread(length, num_frames, 0.5))


def release_test_window(n: int, num_frames: int, stride: int, *, view: int, views: int) -> Indices:
    """Released test windows: every stride-th frame, padded with the last; the first and the last F of that list."""
    _check(n)
    listed = list(range(0, n, stride))
    listed += [listed[-1]] * (num_frames - len(listed))
    start = round(view * (len(listed) - num_frames) / max(1, views - 1))
    return tuple(listed[start : start + num_frames])


def repeated_frame(n: int, num_frames: int, *, view: int, views: int) -> Indices:
    """One frame held for the whole clip: frame `view` of `views` spread evenly over the clip."""
    _check(n)
    return (_spread(n, views, 0.5)[view],) * num_frames


def _shuffled(indices: Indices, rng: np.random.Generator) -> Indices:
    return tuple(indices[place] for place in rng.permutation(len(indices)))


# The same frames of a test view in another order; `frozen` holds the middle one for the view's length.
FRAME_ORDERS: dict[str, Callable[[Indices, np.random.Generator], Indices]] = {
    "kept": lambda indices, rng: indices,
    "shuffled": _shuffled,
    "reversed": lambda indices, rng: indices[::-1],
    "frozen": lambda indices, rng: (indices[len(indices) // 2],) * len(indices),
}


def _check(n: int) -> None:
    if n < 1:
        raise ValueError(f"frame count: expected at least 1, got {n}")
