"""Activations of one micro batch on one rank: bytes kept for the backward, and the most at any time.

The models are told to a `Tape` op by op, with what the autograd functions of each backend save and what torch's own
save: a linear layer, with GELU before it or not, and a layer norm their input (and the norm two numbers per row), an
addition nothing. Weights, their gradients and the batch itself are not part of it.

Letters: T tokens of a stream, V visible ones, M predicted ones, D width, E experts, k chosen, R = T k slots.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from s4d.analysis.plan.blocks import tell_block
from s4d.analysis.plan.decoders import INT64, tell_cross_decoder, tell_joined
from s4d.analysis.plan.pixels import tell_loss, tell_patches
from s4d.analysis.plan.stream import FP32, MODELLED, Backends, Stream
from s4d.analysis.plan.tape import Tape, Value
from s4d.analysis.step_work import MODALITIES
from s4d.models.sizes import Architecture

# What the ops pick by themselves on a GPU and on a CPU, and plain PyTorch in their place.
FAMILIES: dict[str, Backends] = {
    "triton": Backends(attention="triton", moae="triton", patch="triton", reconstruction="triton", blocks="compiled"),
    "cpu": Backends(attention="native", moae="per_expert", patch="native", reconstruction="native"),
    "cpu fp32": Backends(attention="grouped", moae="per_expert", patch="native", reconstruction="native"),
    "plain": Backends(attention="sdpa", moae="grouped", patch="reference", reconstruction="reference"),
}


def backends_of(named: Mapping[str, str]) -> tuple[Backends, list[str]]:
    """Triton's backends with those that a configuration names, and a line for each that is not modelled."""
    unknown = [op for op, name in named.items() if name not in MODELLED.get(op, ())]
    known = {op: name for op, name in named.items() if op in MODELLED and op not in unknown}
    lines = [f"engine.backends.{op}: {named[op]} is taken to keep what Triton's path keeps" for op in unknown]
    return dataclasses.replace(FAMILIES["triton"], **known), lines


@dataclass(frozen=True, kw_only=True, slots=True)
class Activations:
    """Bytes: `kept` when the forward ends, `peak` at most in forward and backward."""

    kept: int
    peak: int


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """Samples of each modality in a micro batch of one rank, and the tokens of one that the encoder sees.

    `decoded` are those of one to predict, None where that is all the others.
    """

    samples: Mapping[str, int]
    kept: Mapping[str, int]
    decoded: Mapping[str, int] | None = None

    def runs(self, arch: Architecture) -> list[tuple[str, int, int, int]]:
        """Modality, samples, seen tokens and all tokens of a sample, of the modalities that are there."""
        return [
            (name, self.samples[name], self.kept[name], arch.tokens(name))
            for name in MODALITIES
            if self.samples.get(name)
        ]

    def wanted(self, arch: Architecture) -> list[int]:
        """Tokens to predict of a sample, of the modalities that are there."""
        runs = self.runs(arch)
        if self.decoded is None:
            return [length - kept for _, _, kept, length in runs]
        return [self.decoded[name] for name, _, _, _ in runs]


def activations(
    arch: Architecture,
    task: str,
    batch: MicroBatch,
    *,
    backends: Backends = FAMILIES["triton"],
    element_bytes: int = 2,
    drop_path: bool = False,
    keeps_gradients: bool = False,
    recomputed: Collection[int] = (),
) -> Activations:
    """Of one forward and backward with these backends; `keeps_gradients` counts the weights' gradients too.

    Layers `recomputed` keep their input alone; those of the decoder come after those of the encoder.
    """
    tape = Tape(keeps_gradients=keeps_gradients)
    settings = Settings(backends=backends, element=element_bytes, drop_path=drop_path, recomputed=frozenset(recomputed))
    tell = _pretrain if task == "pretrain" else _finetune
    tell(tape, arch, batch, settings)
    kept = tape.live
    tape.backward()
    return Activations(kept=kept, peak=tape.peak)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Backends, bytes of an element, whether branches are dropped, and the layers done again in the backward."""

    backends: Backends
    element: int
    drop_path: bool
    recomputed: frozenset[int]


def _pretrain(tape: Tape, arch: Architecture, batch: MicroBatch, settings: Settings) -> None:
    runs, size = batch.runs(arch), settings.element
    counts = [count * asked for (_, count, _, _), asked in zip(runs, batch.wanted(arch), strict=True)]
    seen = Stream(tape, settings.backends, [(count, kept) for _, count, kept, _ in runs], arch.embed_dim, size)
    tokens, x = _embedded(tape, arch, runs, seen, settings)
    for layer in range(arch.depth):
        x = tell_block(
            seen,
            x,
            arch.mlp_ratio,
            arch.num_heads,
            drop_path=settings.drop_path,
            recomputed=layer in settings.recomputed,
        )
    visible = seen.norm(x)
    tape.release(x)
    bridged = seen.linear(visible, arch.decoder_embed_dim, bias=False)
    tape.release(visible)
    predicted = Stream(tape, settings.backends, [(sum(counts), 1)], arch.decoder_embed_dim, size)
    hidden = _decoded(tape, arch, batch, bridged, predicted, settings)
    sums = []
    for count in counts:
        span = tape.op([hidden], count * arch.decoder_embed_dim * size, view=True)
        sums.append(tell_loss(predicted, span, arch, count))
        tape.release(span)
    tape.op(sums, FP32)
    # The model's forward holds on to two more names to its end.
    tape.release(hidden, tokens, bridged, *sums)


def _decoded(
    tape: Tape, arch: Architecture, batch: MicroBatch, bridged: Value, predicted: Stream, settings: Settings
) -> Value:
    """The normed rows of the tokens to predict, by the decoder that the architecture has."""
    runs, wanted, size = batch.runs(arch), batch.wanted(arch), settings.element
    if arch.decoder == "cross":
        pairs = [(count, asked, kept) for (_, count, kept, _), asked in zip(runs, wanted, strict=True)]
        again = {layer - arch.depth for layer in settings.recomputed}
        return tell_cross_decoder(predicted, bridged, pairs, arch, again)
    whole = [(count, kept + asked) for (_, count, kept, _), asked in zip(runs, wanted, strict=True)]
    decoder = Stream(tape, settings.backends, whole, arch.decoder_embed_dim, size)
    picks = 0
    if all(kept + asked == length for (_, _, kept, length), asked in zip(runs, wanted, strict=True)):
        filled = _filled(decoder, bridged)
    else:
        filled, picks = tell_joined(decoder, bridged, predicted), INT64 * predicted.tokens
    for layer in range(arch.depth, arch.depth + arch.decoder_depth):
        filled = tell_block(
            decoder,
            filled,
            arch.mlp_ratio,
            arch.decoder_num_heads,
            drop_path=settings.drop_path,
            recomputed=layer in settings.recomputed,
        )
    # Index selection keeps its indices, which are the batch's unless some are left out; back it fills a stream with
    # zeros.
    chosen = tape.op([filled], predicted.row_bytes, keeps=picks)
    hidden = predicted.norm(chosen)
    tape.release(chosen, filled)
    return hidden


def _finetune(tape: Tape, arch: Architecture, batch: MicroBatch, settings: Settings) -> None:
    runs, size = batch.runs(arch), settings.element
    stream = Stream(tape, settings.backends, [(count, length) for _, count, _, length in runs], arch.embed_dim, size)
    tokens, x = _embedded(tape, arch, runs, stream, settings)
    with_experts = arch.experts.layers if arch.experts is not None else ()
    for layer in range(arch.depth):
        experts = arch if layer in with_experts else None
        x = tell_block(
            stream,
            x,
            arch.mlp_ratio,
            arch.num_heads,
            drop_path=settings.drop_path,
            recomputed=layer in settings.recomputed,
            arch=experts,
        )
    # The mean over tokens in float32; back each run fills a whole stream with zeros around its share.
    wide = x if size >= FP32 else tape.op([x], stream.tokens * arch.embed_dim * FP32)
    means = []
    for _, count, _, length in runs:
        run = tape.op([wide], count * length * arch.embed_dim * FP32, view=True)
        means.append(tape.op([run], count * arch.embed_dim * FP32))
        tape.release(run)
    if wide is not x:
        tape.release(wide)
    tape.release(x, tokens)
    tape.op(means, sum(mean.size for mean in means))
    tape.release(*means)


def _embedded(
    tape: Tape, arch: Architecture, runs: list[tuple[str, int, int, int]], stream: Stream, settings: Settings
) -> tuple[Value, Value]:
    """Tokens, one embedding per modality joined, and the same with their positions."""
    parts = [
        tell_patches(
            tape, settings.backends.patch, arch, name, samples=count, tokens=count * kept, size=settings.element
        )
        for name, count, kept, _ in runs
    ]
    tokens = tape.op(parts, stream.row_bytes, grads=[part.size for part in parts])
    tape.release(*parts)
    places = stream.tokens * arch.embed_dim * FP32 + (stream.row_bytes if settings.element < FP32 else 0)
    x = tape.op([tokens], stream.row_bytes, grads=[None], scratch=places)
    return tokens, x


def _filled(decoder: Stream, bridged: Value) -> Value:
    """The decoder's stream: mask tokens everywhere, visible tokens in their places, positions added."""
    tape, size = decoder.tape, decoder.row_bytes
    filled = tape.op([bridged], size, back_scratch=size)
    places = decoder.tokens * decoder.width * FP32 + (size if decoder.element < FP32 else 0)
    placed = tape.op([filled], size, grads=[None], scratch=places)
    tape.release(filled)
    return placed
