"""One layer of adapter experts told to a tape, for each backend of the op.

Letters: T tokens, D width, E experts, k chosen, R = T k slots, Hd width of an expert.
"""

from __future__ import annotations

from s4d.analysis.plan.stream import FP32, Stream
from s4d.analysis.plan.tape import Value
from s4d.models.sizes import Architecture, MoaeArchitecture

INT64 = 8


def tell_experts(stream: Stream, y: Value, residual: Value, arch: Architecture) -> Value:
    """`residual` plus the experts of the tokens `y`, (T, D)."""
    assert arch.experts is not None
    backend = {"triton": _triton, "per_expert": _per_expert, "grouped": _grouped}[stream.backends.moae]
    return backend(stream, y, residual, arch.experts)


def _weights(stream: Stream, experts: MoaeArchitecture) -> int:
    """Bytes of the experts' gradients."""
    each = 2 * stream.width * experts.hidden_dim + stream.width + experts.hidden_dim
    return experts.num_experts * each * stream.element


def _router_weights(stream: Stream, experts: MoaeArchitecture) -> int:
    return _maps(experts) * experts.num_experts * (stream.width + 1) * stream.element


def _maps(experts: MoaeArchitecture) -> int:
    return 1 if experts.router_noise == "off" else 2


def _triton(stream: Stream, y: Value, residual: Value, experts: MoaeArchitecture) -> Value:
    """Kept: pre-activations, logits, gates, ids, order, slots, a mark per slot, and the slope of the noise."""
    slots = stream.tokens * experts.top_k
    kept = slots * (experts.hidden_dim * stream.element + FP32 + 3 * INT64 + 1)
    kept += _maps(experts) * stream.tokens * experts.num_experts * FP32
    rows = slots * stream.width * stream.element
    return stream.tape.op(
        [y, residual],
        stream.row_bytes,
        saves=[y],
        keeps=kept,
        grads=[y.size, None],
        scratch=rows,
        back_scratch=rows + slots * (experts.hidden_dim * stream.element + FP32),
        weights=_weights(stream, experts) + _router_weights(stream, experts),
    )


def _routed(stream: Stream, y: Value, experts: MoaeArchitecture) -> Value:
    """Plain PyTorch's router: scores in float32, with its small tables kept; returns what the gates' gradient goes to.

    Kept beside the logits: the noise, its spread's input, softmax and gates of all experts (T, E), and for each slot
    three indices and three numbers.
    """
    tape, table = stream.tape, stream.tokens * experts.num_experts * FP32
    wide = y if stream.element >= FP32 else tape.op([y], stream.tokens * stream.width * FP32)
    scores = [tape.op([wide], table, saves=[wide]) for _ in range(_maps(experts))]
    if wide is not y:
        tape.release(wide)
    slots = stream.tokens * experts.top_k
    kept = (2 * _maps(experts) + 1) * table + slots * 3 * (INT64 + FP32)
    gates = tape.op(scores, slots * FP32, keeps=kept, weights=_router_weights(stream, experts))
    tape.release(*scores)
    return gates


def _per_expert(stream: Stream, y: Value, residual: Value, experts: MoaeArchitecture) -> Value:
    """Kept: y and the pre-activations. One expert's rows at a time pass through both layers."""
    tape, size = stream.tape, stream.row_bytes
    gates = _routed(stream, y, experts)
    biases = tape.op([gates], size)
    added = tape.op([biases, residual], size, grads=[None, None])
    slots = stream.tokens * experts.top_k
    rows = slots * stream.width * stream.element
    # The average expert's share; hidden rows exist in float32 and in the stream's own dtype.
    share = slots // experts.num_experts
    own = share * (stream.width * stream.element + experts.hidden_dim * (2 * FP32 + stream.element))
    out = tape.op(
        [y, added],
        size,
        saves=[y],
        keeps=slots * experts.hidden_dim * stream.element,
        grads=[y.size, None],
        scratch=rows + own,
        back_scratch=rows + 2 * own,
        weights=_weights(stream, experts),
    )
    tape.release(gates, biases, added)
    return out


def _grouped(stream: Stream, y: Value, residual: Value, experts: MoaeArchitecture) -> Value:
    """Kept: y and the products of the first layer; sums are float32 until the end."""
    tape, wide = stream.tape, stream.tokens * stream.width * FP32
    gates = _routed(stream, y, experts)
    slots = stream.tokens * experts.top_k
    rows, hidden = slots * stream.width * stream.element, slots * experts.hidden_dim
    served = tape.op(
        [y],
        wide,
        saves=[y],
        keeps=hidden * stream.element,
        scratch=2 * rows + hidden * (3 * FP32 + stream.element),
        back_scratch=2 * rows + hidden * 5 * FP32,
        weights=_weights(stream, experts),
    )
    biased = tape.op([served, gates], wide, grads=[None, gates.size])
    total = tape.op([biased, residual], wide, grads=[None, None if stream.element >= FP32 else residual.size])
    tape.release(gates, served, biased)
    if stream.element >= FP32:
        return total
    out = tape.op([total], stream.row_bytes)
    tape.release(total)
    return out
