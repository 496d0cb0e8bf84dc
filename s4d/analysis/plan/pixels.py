"""The two ops that read pixels, embedding and reconstruction loss, told to a tape for each of their backends.

Letters: M tokens, P values of a token (a still image's own are a tubelet's frame's), D width.
"""

from __future__ import annotations

from s4d.analysis.plan.stream import FP32, Stream
from s4d.analysis.plan.tape import Tape, Value
from s4d.models.sizes import Architecture

# Tokens that the native reconstruction works on at a time.
_BLOCK_TOKENS = 1024


def _own_values(arch: Architecture, modality: str) -> int:
    return arch.token_values // (arch.tubelet_size if modality == "image" else 1)


def tell_patches(
    tape: Tape, backend: str, arch: Architecture, modality: str, *, samples: int, tokens: int, size: int
) -> Value:
    """Embedding of `tokens` tokens of one modality, (M, D); pixels have no gradient, and are the batch's."""
    output = tokens * arch.embed_dim * size
    weights = arch.embed_dim * (arch.token_values + 1) * size
    values = tokens * _own_values(arch, modality)
    if backend == "triton":
        return tape.op([], output, weights=weights)
    if backend == "reference":
        # All frames in float32, unfolded into tubelets, of which the wanted ones remain; repeated for still images.
        frames = samples * arch.tokens(modality) * _own_values(arch, modality) * FP32
        wanted = tokens * arch.token_values * size
        tape.scratch(2 * frames + values * FP32)
        return tape.op([], output, keeps=wanted, weights=weights)
    # Rows of the wanted tokens in float32 and, where that differs, in the weight's dtype: read again for the backward.
    rows = values * (FP32 + (size if size < FP32 else 0))
    return tape.op([], output, scratch=rows, back_scratch=rows, weights=weights)


def tell_loss(stream: Stream, hidden: Value, arch: Architecture, tokens: int) -> Value:
    """Prediction and loss of `tokens` rows of `hidden`; gives the sum. Back, a span's gradient is a whole stream's."""
    backend = {"triton": _kept_residual, "native": _kept_gradients, "reference": _plain}[stream.backends.reconstruction]
    return backend(stream, hidden, arch, tokens)


def _head_weights(stream: Stream, arch: Architecture) -> int:
    return arch.token_values * (stream.width + 1) * stream.element


def _kept_residual(stream: Stream, hidden: Value, arch: Architecture, tokens: int) -> Value:
    """Kept: the residual."""
    residual = tokens * arch.token_values * stream.element
    return stream.tape.op([hidden], FP32, saves=[hidden], keeps=residual, weights=_head_weights(stream, arch))


def _kept_gradients(stream: Stream, hidden: Value, arch: Architecture, tokens: int) -> Value:
    """Kept: the gradients, taken along block by block: those of the weights at least in float32."""
    wide = arch.token_values * (stream.width + 1) * FP32
    block = min(tokens, _BLOCK_TOKENS) * arch.token_values * stream.element
    return stream.tape.op([hidden], FP32, keeps=hidden.size + wide, scratch=block, weights=_head_weights(stream, arch))


def _plain(stream: Stream, hidden: Value, arch: Architecture, tokens: int) -> Value:
    """Kept: the difference in float32. Alive at once: prediction, target and difference; back three of that size."""
    values = tokens * arch.token_values
    tape = stream.tape
    narrow = values * stream.element if stream.element < FP32 else 0
    tape.scratch(3 * values * FP32 + narrow)
    return tape.op(
        [hidden],
        FP32,
        saves=[hidden],
        keeps=values * FP32,
        back_scratch=3 * values * FP32 + narrow,
        weights=_head_weights(stream, arch),
    )
