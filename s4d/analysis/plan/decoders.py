"""Decoders that see the tokens to predict and the visible ones, told to a tape: by cross-attention, or as one stream.

Letters: V visible tokens, M tokens to predict, D width, r the MLP's ratio.
"""

from __future__ import annotations

from collections.abc import Collection

from s4d.analysis.plan.blocks import tell_mlp
from s4d.analysis.plan.stream import FP32, Stream
from s4d.analysis.plan.tape import Value
from s4d.models.sizes import Architecture

INT64 = 8
# Sequences, tokens to predict of one, visible ones.
Pairs = list[tuple[int, int, int]]


def tell_joined(decoder: Stream, bridged: Value, predicted: Stream) -> Value:
    """Visible rows and mask tokens, both with their positions, as one stream of the joint decoder."""
    tape = decoder.tape
    shown, asked = _placed(decoder, bridged, predicted)
    stream = tape.op([shown, asked], decoder.row_bytes, scratch=decoder.row_bytes, back_scratch=decoder.row_bytes)
    tape.release(shown, asked)
    return stream


def tell_cross_decoder(
    predicted: Stream,
    bridged: Value,
    pairs: Pairs,
    arch: Architecture,
    recomputed: Collection[int],
) -> Value:
    """The normed rows (M, D); each block reads the visible rows, which are there to the end.

    Blocks `recomputed` keep nothing but what they are given.
    """
    tape = predicted.tape
    memory, x = _placed(predicted, bridged, predicted)
    visible = sum(count * seen for count, _, seen in pairs)
    shown = Stream(tape, predicted.backends, [(visible, 1)], predicted.width, predicted.element)

    def block(x: Value) -> Value:
        normed = predicted.norm(x)
        queries = predicted.linear(normed, predicted.width)
        keys = shown.linear(memory, 2 * predicted.width, bias=False)
        mixed = _attend(predicted, queries, keys, pairs, arch.decoder_num_heads)
        branch = predicted.linear(mixed, predicted.width)
        tape.release(normed, queries, keys, mixed)
        between = predicted.add(x, branch, False)
        tape.release(x, branch)
        y = predicted.norm(between)
        served = tell_mlp(predicted, y, arch.mlp_ratio)
        out = predicted.add(between, served, False)
        tape.release(y, between, served)
        return out

    for layer in range(arch.decoder_depth):
        x = tape.recomputed(block, x, [memory]) if layer in recomputed else block(x)
    hidden = predicted.norm(x)
    tape.release(x, memory)
    return hidden


def _placed(stream: Stream, bridged: Value, predicted: Stream) -> tuple[Value, Value]:
    """The bridge's rows and the mask tokens with their positions, which are looked up in float32."""
    tape, narrow = stream.tape, int(stream.element < FP32)
    widest = FP32 // stream.element + narrow
    shown = tape.op([bridged], bridged.size, grads=[None], scratch=widest * bridged.size)
    asked = tape.op(
        [], predicted.row_bytes, scratch=widest * predicted.row_bytes, weights=stream.width * stream.element
    )
    return shown, asked


def _attend(stream: Stream, queries: Value, keys: Value, pairs: Pairs, heads: int) -> Value:
    """One fused call per run, its outputs joined; each run's gradients are stacked, then all are joined."""
    outputs = []
    for count, asked, seen in pairs:
        size, read = (count * n * stream.width * stream.element for n in (asked, 2 * seen))
        outputs.append(
            stream.tape.op(
                [queries, keys],
                size,
                saves=[queries, keys],
                saves_output=True,
                keeps=FP32 * count * asked * heads,
                grads=[size, read],
                back_scratch=read,
            )
        )
    joined = stream.tape.op(outputs, stream.row_bytes, grads=[output.size for output in outputs])
    stream.tape.release(*outputs)
    return joined
