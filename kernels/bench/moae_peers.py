"""Who runs the expert mixture beside us: the released loop, a loop over index runs, a pipeline of grouped products.

All compute the same function as the op: noise given, exact GELU, biases, first-come capacity. Libraries of fused
experts are absent, since none has GELU experts with biases and a capacity.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn.functional import gelu, linear, softplus

from kernels.bench.backend_peers import backend_peers
from kernels.bench.moae import RESULTS, Leaves, MoaeInputs, call_backend
from kernels.bench.records import AbsentError, Case, Peer, Run
from kernels.moae import BACKENDS

_READS_COUNTS = "reads token counts on the host"
_LIBRARIES = {
    "liger": ("liger_kernel", "its fused experts are gated SiLU without biases or capacity: another function"),
    "scattermoe": ("scattermoe", "its experts have neither biases nor a capacity: another function"),
}


def moae_peers(case: Case) -> Iterator[Peer]:
    """All peers of one case, our backends first."""
    yield from backend_peers("moae", BACKENDS, moae_backend)
    yield Peer(name="release_loop", build=_release_loop, uncapturable=_READS_COUNTS)
    yield Peer(name="index_select", build=_index_select, uncapturable=_READS_COUNTS)
    yield Peer(name="grouped_mm", build=_grouped_mm)
    for name in _LIBRARIES:
        yield Peer(name=name, build=functools.partial(_absent, name))


def _absent(name: str, inputs: MoaeInputs) -> Run:
    module, reason = _LIBRARIES[name]
    raise AbsentError(reason if find_spec(module) is not None else f"{module} is not installed ({reason})")


def _stacked(outputs: tuple[Tensor, ...], gradients: tuple[Tensor, ...]) -> dict[str, Tensor]:
    return dict(zip(RESULTS, (*outputs, *gradients), strict=True))


def moae_backend(inputs: MoaeInputs, name: str) -> Run:
    """The op by the backend ``name``."""
    leaves = inputs.leaves.fresh()
    return Run(
        forward=lambda: (call_backend(inputs, leaves, name),),
        leaves=leaves.values(),
        upstream=(inputs.upstream,),
        results=_stacked,
    )


def _noisy_scores(leaves: Leaves, noise: Tensor) -> Tensor:
    """Scores (T, E) in float32 as in the op, so that all rivals choose the same experts."""
    x = leaves.x.float()
    spread = softplus(linear(x, leaves.noise_weight.float(), leaves.noise_bias.float()))
    return linear(x, leaves.router_weight.float(), leaves.router_bias.float()) + noise * spread


def _release_loop(inputs: MoaeInputs) -> Run:
    """The released rule as its code runs it: one small MLP after the other over the rows that ``nonzero`` finds.

    In half precision that code keeps float32 parameters under autocast, and so does this. Its router alone leaves
    autocast here, or it would choose other experts.
    """
    dtype = inputs.leaves.x.dtype
    leaves = inputs.leaves.fresh(torch.float32)
    stacks = (leaves.fc1_weight, leaves.fc1_bias, leaves.fc2_weight, leaves.fc2_bias)
    per_expert = [tuple(part.detach().clone().requires_grad_() for part in stack) for stack in stacks]
    routed = leaves.values()[:5]
    device = leaves.x.device.type

    def forward() -> tuple[Tensor, ...]:
        with torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
            with torch.autocast(device, enabled=False):
                scores = _noisy_scores(leaves, inputs.noise)
                values, ids = scores.topk(inputs.top_k, dim=1)
                gates = torch.softmax(torch.full_like(scores, -torch.inf).scatter(1, ids, values), 1)
            output = torch.zeros_like(leaves.x)
            for expert, (fc1, bias1, fc2, bias2) in enumerate(zip(*per_expert, strict=True)):
                rows = torch.nonzero((ids == expert).any(1)).squeeze(1)[: inputs.capacity]
                if rows.numel():
                    hidden = gelu(linear(leaves.x[rows], fc1, bias1))
                    gated = linear(hidden, fc2, bias2) * gates[rows, expert, None]
                    output = output.index_add(0, rows, gated.to(output.dtype))
        return (output,)

    def results(outputs: tuple[Tensor, ...], gradients: tuple[Tensor, ...]) -> dict[str, Tensor]:
        count = len(per_expert[0])
        experts = [torch.stack(gradients[5 + i * count : 5 + (i + 1) * count]) for i in range(len(stacks))]
        return dict(zip(RESULTS, (outputs[0], *gradients[:5], *experts), strict=True))

    every = (*routed, *(part for stack in per_expert for part in stack))
    return Run(forward=forward, leaves=every, upstream=(inputs.upstream.float(),), results=results)


def _sorted_assignments(ids: Tensor, num_experts: int) -> tuple[Tensor, Tensor]:
    """Assignments (T * k,) in expert and token order, and the ends (E,) int32 of the experts' runs."""
    flat, order = torch.sort(ids.flatten(), stable=True)
    ends = torch.searchsorted(flat, torch.arange(num_experts, device=ids.device), right=True)
    return order, ends.int()


def _index_select(inputs: MoaeInputs) -> Run:
    """One matrix product pair per expert on its gathered rows, the counts read on the host."""
    leaves = inputs.leaves.fresh()

    def forward() -> tuple[Tensor, ...]:
        scores = _noisy_scores(leaves, inputs.noise)
        ids = scores.detach().topk(inputs.top_k, dim=1).indices
        gates = torch.softmax(scores.gather(1, ids), 1)
        order, ends = _sorted_assignments(ids, scores.shape[1])
        flat_gates, start = gates.flatten(), 0
        output = leaves.x.new_zeros(leaves.x.shape, dtype=torch.float32)
        for expert, end in enumerate(ends.tolist()):
            chosen = order[start : min(end, start + inputs.capacity)]
            rows = chosen // inputs.top_k
            hidden = linear(leaves.x.index_select(0, rows), leaves.fc1_weight[expert], leaves.fc1_bias[expert])
            result = linear(gelu(hidden), leaves.fc2_weight[expert], leaves.fc2_bias[expert])
            output = output.index_add(0, rows, result * flat_gates.index_select(0, chosen)[:, None])
            start = end
        return (output.to(leaves.x.dtype),)

    return Run(forward=forward, leaves=leaves.values(), upstream=(inputs.upstream,), results=_stacked)


def _grouped_mm(inputs: MoaeInputs) -> Run:
    """Sort, gather, two grouped products with their biases, gather back: torch alone, no host read."""
    leaves = inputs.leaves.fresh()
    tokens, num_experts = inputs.noise.shape

    def forward() -> tuple[Tensor, ...]:
        scores = _noisy_scores(leaves, inputs.noise)
        ids = scores.detach().topk(inputs.top_k, dim=1).indices
        gates = torch.softmax(scores.gather(1, ids), 1)
        order, ends = _sorted_assignments(ids, num_experts)
        slot = torch.arange(order.shape[0], device=order.device)
        owner = ids.flatten()[order]
        first = torch.nn.functional.pad(ends[:-1], (1, 0))
        served = slot - first[owner] < inputs.capacity
        rows = leaves.x.index_select(0, order // inputs.top_k)
        hidden = torch._grouped_mm(rows, leaves.fc1_weight.transpose(1, 2), offs=ends)
        hidden = gelu(hidden + leaves.fc1_bias.index_select(0, owner))
        result = torch._grouped_mm(hidden, leaves.fc2_weight.transpose(1, 2), offs=ends)
        gate = torch.where(served, gates.flatten()[order], 0.0)
        gated = (result + leaves.fc2_bias.index_select(0, owner)) * gate[:, None]
        place = torch.empty_like(order).scatter_(0, order, slot)
        output = gated.index_select(0, place).view(tokens, inputs.top_k, -1).sum(1)
        return (output.to(leaves.x.dtype),)

    return Run(forward=forward, leaves=leaves.values(), upstream=(inputs.upstream,), results=_stacked)
