"""Blocks of the encoder and of the joint decoder, told to a tape."""

from __future__ import annotations

from functools import partial

from s4d.analysis.plan.experts import tell_experts
from s4d.analysis.plan.stream import Stream
from s4d.analysis.plan.tape import Value
from s4d.models.sizes import Architecture


def tell_block(
    stream: Stream,
    x: Value,
    ratio: int,
    heads: int,
    *,
    drop_path: bool,
    recomputed: bool,
    arch: Architecture | None = None,
) -> Value:
    """One block, which takes the name `x` over; with `arch` its experts run beside the MLP."""
    tell = partial(_once, stream, ratio, heads, drop_path, arch)
    return stream.tape.recomputed(tell, x) if recomputed else tell(x)


def _once(stream: Stream, ratio: int, heads: int, drop_path: bool, arch: Architecture | None, x: Value) -> Value:
    tape = stream.tape
    normed = stream.norm(x)
    qkv = stream.linear(normed, 3 * stream.width)
    tape.release(normed)
    mixed = stream.attend(qkv, heads)
    branch = stream.linear(mixed, stream.width)
    tape.release(qkv, mixed)
    between = stream.add(x, branch, drop_path)
    y = stream.norm(between)
    mlp = tell_mlp(stream, y, ratio)
    # Until here the first branch has its name.
    tape.release(branch)
    if arch is not None:
        served = tell_experts(stream, y, mlp, arch)
        tape.release(mlp)
        mlp = served
    out = stream.add(between, mlp, drop_path)
    tape.release(mlp, between, y, x)
    return out


def tell_mlp(stream: Stream, y: Value, ratio: int) -> Value:
    """Two linear layers with GELU between them, the inner one `ratio` times as wide."""
    wide = stream.linear(y, ratio * stream.width)
    # Keeps what GELU is given; GELU itself is there for a moment in both directions. Compiled, a block keeps it too:
    # torch.compile makes nothing again that a product reads.
    mlp = stream.tape.op(
        [wide],
        stream.row_bytes,
        saves=[wide],
        keeps=wide.size if stream.backends.blocks == "compiled" else 0,
        scratch=wide.size,
        back_scratch=wide.size,
        weights=(ratio * stream.width + 1) * stream.width * stream.element,
    )
    stream.tape.release(wide)
    return mlp
