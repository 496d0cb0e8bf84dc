"""Arithmetic and least traffic of one step by part: what must be computed and moved, and nothing else.

A multiply-add is two FLOPs, and only matrix products count. Bytes are those of a step whose element-wise work lies in
the products beside it: each product reads its operands once and writes its result once. The four ops of our own are
counted as in `kernels.bench.floors`.

Letters: T tokens of a stream, D its width, r the MLP's ratio, E experts, k of them chosen; of a decoder M tokens to
predict and V visible ones.

How this differs from what torch's FlopCounterMode sees, each by an exact factor that the test holds:

- the attention backward counts five products against the forward's two, since scores are recomputed rather than kept;
  plain PyTorch keeps them and does four, 0.8 of it (its fused attention, which a cross decoder uses, does five);
- a still image meets the temporally summed weight of the embedding, 1 / tubelet_size of the products of a backend that
  repeats the image instead (the weight's sum is no product);
- experts serve the k choices of each token; backends that run all experts on all tokens do E / k of it, and one that
  writes the sum of gated output biases as a product adds 2 E D per token, twice that backward.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kernels.bench import floors
from kernels.bench.records import Floors
from kernels.launch import Work
from s4d.models.sizes import Architecture, MoaeArchitecture

PARTS = (
    "embed",
    "encoder attention",
    "encoder linear",
    "moae",
    "decoder attention",
    "decoder linear",
    "head and loss",
)
# Still images come first in every stream.
MODALITIES = ("image", "video")
# Router logits and their gradients are float32.
_WIDE = 4
_NOTHING = Work(flops=0.0, bytes=0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class PartWork:
    """Work of one part of a step, forward and backward."""

    forward: Work
    backward: Work

    def __add__(self, other: PartWork) -> PartWork:
        return PartWork(
            forward=floors.total((self.forward, other.forward)), backward=floors.total((self.backward, other.backward))
        )


def step_work(
    arch: Architecture,
    task: str,
    samples: Mapping[str, int],
    kept: Mapping[str, int],
    *,
    decoded: Mapping[str, int] | None = None,
    element_bytes: int = 2,
    classes: int = 0,
) -> dict[str, PartWork]:
    """Work of every part in `PARTS` for one packed forward and backward.

    `samples` counts samples by modality, `kept` the tokens of one that the encoder sees: the visible ones in
    pre-training (`task` "pretrain": visible tokens are embedded, masked ones predicted), all in fine-tuning
    ("finetune"). `decoded` are the tokens of one sample to predict, all that are not kept unless it says otherwise.
    `classes` are those of all heads together. Experts serve every choice of a token; a capacity may drop some.
    ValueError for counts that do not fit.
    """
    _check(arch, task, samples, kept, decoded)
    seen = [(samples.get(name, 0), kept.get(name, 0)) for name in MODALITIES]
    visible = sum(count * tokens for count, tokens in seen)
    found = {
        "embed": _embed(arch, samples, kept, element_bytes),
        "encoder attention": _attention(seen, arch.embed_dim, arch.num_heads, arch.depth, element_bytes),
        "encoder linear": _blocks(visible, arch.embed_dim, arch.mlp_ratio, arch.depth, element_bytes),
        "moae": PartWork(forward=_NOTHING, backward=_NOTHING),
    }
    if task == "finetune":
        if arch.experts is not None:
            found["moae"] = _moae(visible, arch.embed_dim, arch.experts, element_bytes)
        nothing = PartWork(forward=_NOTHING, backward=_NOTHING)
        head = _classifier(visible, sum(samples.values()), arch.embed_dim, classes, element_bytes)
        return {**found, "decoder attention": nothing, "decoder linear": nothing, "head and loss": head}
    wanted = {name: arch.tokens(name) - count for name, count in kept.items()} if decoded is None else decoded
    return {**found, **_decoder(arch, samples, kept, wanted, element_bytes)}


def total(work: Mapping[str, PartWork]) -> PartWork:
    """Work of all parts together."""
    parts = list(work.values())
    return sum(parts[1:], parts[0])


def _check(
    arch: Architecture,
    task: str,
    samples: Mapping[str, int],
    kept: Mapping[str, int],
    decoded: Mapping[str, int] | None,
) -> None:
    if task not in ("pretrain", "finetune"):
        raise ValueError(f"task: expected pretrain or finetune, got {task!r}")
    if unknown := sorted({*samples, *kept} - {*MODALITIES}):
        raise ValueError(f"samples, kept: expected {' and '.join(MODALITIES)}, got {unknown[0]!r}")
    for name, count in samples.items():
        tokens = arch.tokens(name)
        if count < 0:
            raise ValueError(f"samples: expected 0 or more of {name!r}, got {count}")
        wanted = f"{tokens}" if task == "finetune" else f"1 to {tokens}"
        if count and not (1 if task == "pretrain" else tokens) <= kept.get(name, 0) <= tokens:
            raise ValueError(f"kept: expected {wanted} tokens of {name!r}, got {kept.get(name)}")
        if count and decoded is not None and not 0 <= decoded.get(name, 0) <= tokens - kept[name]:
            raise ValueError(f"decoded: expected 0 to {tokens - kept[name]} tokens of {name!r}, got {decoded[name]}")


def _part(found: Floors) -> PartWork:
    return PartWork(forward=floors.total(found["forward"]), backward=floors.total(found["backward"]))


def _times(part: PartWork, times: int) -> PartWork:
    forward, backward = (Work(flops=times * w.flops, bytes=times * w.bytes) for w in (part.forward, part.backward))
    return PartWork(forward=forward, backward=backward)


def _own_pixels(arch: Architecture, modality: str) -> int:
    """Pixel values that a token covers: a still image has one frame in place of a tubelet."""
    return arch.token_values // (arch.tubelet_size if modality == "image" else 1)


def _embed(arch: Architecture, samples: Mapping[str, int], kept: Mapping[str, int], size: int) -> PartWork:
    parts = [
        _part(floors.patch(samples[name] * kept[name], _own_pixels(arch, name), arch.embed_dim, size))
        for name in MODALITIES
        if samples.get(name)
    ]
    return sum(parts, PartWork(forward=_NOTHING, backward=_NOTHING))


def _attention(runs: list[tuple[int, int]], width: int, heads: int, depth: int, size: int) -> PartWork:
    return _times(_part(floors.attention(tuple(runs), heads, width // heads, size)), depth)


def _blocks(tokens: int, width: int, ratio: int, depth: int, size: int) -> PartWork:
    """The products of `depth` blocks with the norms, residuals and GELU between them.

    Rows of width D per token that move forward: qkv reads 1 and writes 3; the output projection reads its input and the
    residual and writes 1; fc1 reads 1 and writes r; fc2 reads r and the residual and writes 1. Backward, for each of
    the four products, the gradient of its input and of its weight: fc2 (1 + 2 r) and (1 + r); fc1 (r + 3: the norm's
    input, the residual's gradient, the result) and (r + 1); the projection 2 and 2; qkv (3 + 3) and (3 + 1).
    """
    elements = (4 + 2 * ratio) * width**2
    flops, weights = 2.0 * elements * tokens, elements * size
    row = tokens * width * size
    forward = Work(flops=flops, bytes=(10 + 2 * ratio) * row + weights)
    backward = Work(flops=2 * flops, bytes=(20 + 5 * ratio) * row + 2 * weights)
    return _times(PartWork(forward=forward, backward=backward), depth)


def _moae(tokens: int, width: int, experts: MoaeArchitecture, size: int) -> PartWork:
    """All layers with experts: those chosen, those shared, and the router that scores in float32 what is read."""
    found = floors.moae(tokens, width, experts.num_experts, experts.hidden_dim, experts.top_k, size)
    maps = 1 if experts.router_noise == "off" else 2
    flops, logits = 2.0 * maps * tokens * width * experts.num_experts, maps * tokens * experts.num_experts * _WIDE
    weights = maps * width * experts.num_experts * size
    router = PartWork(
        forward=Work(flops=flops, bytes=logits + weights),
        backward=Work(flops=2 * flops, bytes=2 * logits + 2 * weights),
    )
    shared = _shared(tokens, width, experts.shared_experts * experts.hidden_dim, size)
    return _times(_part(found) + router + shared, len(experts.layers))


def _shared(tokens: int, width: int, hidden: int, size: int) -> PartWork:
    """Experts for every token, of `hidden` values together, as the two layers of an MLP in `_blocks`."""
    if hidden == 0:
        return PartWork(forward=_NOTHING, backward=_NOTHING)
    flops, weights = 4.0 * width * hidden * tokens, 2 * width * hidden * size
    row, narrow = tokens * width * size, tokens * hidden * size
    forward = Work(flops=flops, bytes=3 * row + 2 * narrow + weights)
    backward = Work(flops=2 * flops, bytes=6 * row + 5 * narrow + 2 * weights)
    return PartWork(forward=forward, backward=backward)


def _decoder(
    arch: Architecture, samples: Mapping[str, int], kept: Mapping[str, int], wanted: Mapping[str, int], size: int
) -> dict[str, PartWork]:
    """The three parts of pre-training behind the encoder, for a joint decoder or one of cross-attention."""
    width, depth, heads = arch.decoder_embed_dim, arch.decoder_depth, arch.decoder_num_heads
    runs = [(samples.get(name, 0), kept.get(name, 0), wanted.get(name, 0)) for name in MODALITIES]
    visible, predicted = sum(n * seen for n, seen, _ in runs), sum(n * asked for n, _, asked in runs)
    if arch.decoder == "cross":
        attention = _cross_attention(runs, width, depth, size)
        linear = _cross_blocks(predicted, visible, width, arch.mlp_ratio, depth, size)
    else:
        attention = _attention([(n, seen + asked) for n, seen, asked in runs], width, heads, depth, size)
        linear = _blocks(visible + predicted, width, arch.mlp_ratio, depth, size)
    return {
        "decoder attention": attention,
        "decoder linear": linear + _bridge(arch, visible, visible + predicted, size),
        "head and loss": _reconstruction(arch, samples, wanted, size),
    }


def _cross_attention(runs: list[tuple[int, int, int]], width: int, depth: int, size: int) -> PartWork:
    """Of M queries and V keys: q, k, v, out forward; q, k, v, dout, dq, dk, dv backward, with its five products."""
    flops = sum(4.0 * count * seen * asked * width for count, seen, asked in runs)
    visible, predicted = sum(n * seen for n, seen, _ in runs), sum(n * asked for n, _, asked in runs)
    forward = Work(flops=flops, bytes=(2 * predicted + 2 * visible) * width * size)
    backward = Work(flops=2.5 * flops, bytes=(3 * predicted + 4 * visible) * width * size)
    return _times(PartWork(forward=forward, backward=backward), depth)


def _cross_blocks(predicted: int, visible: int, width: int, ratio: int, depth: int, size: int) -> PartWork:
    """As `_blocks`, with queries of the M tokens to predict and keys and values of the V visible ones.

    Rows of a token to predict: q reads 1 and writes 1 in place of qkv's 4; back 1 + 3 and 1 + 1 in place of 10. Rows of
    a visible one: kv reads 1 and writes 2; back it reads 2 and adds to the sum over blocks (2), and 2 + 1.
    """
    elements, memory = (2 + 2 * ratio) * width**2, 2 * width**2
    flops, weights = 2.0 * (elements * predicted + memory * visible), (elements + memory) * size
    row = width * size
    forward = Work(flops=flops, bytes=((8 + 2 * ratio) * predicted + 3 * visible) * row + weights)
    backward = Work(flops=2 * flops, bytes=((16 + 5 * ratio) * predicted + 7 * visible) * row + 2 * weights)
    return _times(PartWork(forward=forward, backward=backward), depth)


def _bridge(arch: Architecture, visible: int, every: int, size: int) -> PartWork:
    """From the encoder's tokens to the decoder's, `every` with the mask tokens; positions are added."""
    elements = arch.embed_dim * arch.decoder_embed_dim
    flops = 2.0 * elements * visible
    moved = (visible * arch.embed_dim + every * arch.decoder_embed_dim + elements) * size
    # Backward: the stream's gradient is read for the input's and for the weight's, which reads the input too.
    back = (2 * visible * arch.embed_dim + (every + visible) * arch.decoder_embed_dim + 2 * elements) * size
    return PartWork(forward=Work(flops=flops, bytes=moved), backward=Work(flops=2 * flops, bytes=back))


def _reconstruction(arch: Architecture, samples: Mapping[str, int], wanted: Mapping[str, int], size: int) -> PartWork:
    parts = [
        _part(
            floors.reconstruction(
                samples[name] * wanted.get(name, 0),
                _own_pixels(arch, name),
                arch.token_values,
                arch.decoder_embed_dim,
                size,
            )
        )
        for name in MODALITIES
        if samples.get(name)
    ]
    return sum(parts, PartWork(forward=_NOTHING, backward=_NOTHING))


def _classifier(tokens: int, samples: int, width: int, classes: int, size: int) -> PartWork:
    """Mean over tokens and the heads; the backward writes every token's gradient."""
    flops, moved = 2.0 * samples * width * classes, (tokens * width + width * classes) * size
    return PartWork(
        forward=Work(flops=flops, bytes=moved), backward=Work(flops=2 * flops, bytes=moved + width * classes * size)
    )
