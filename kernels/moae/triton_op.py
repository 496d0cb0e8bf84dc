"""The Triton backend of MoAE: four launches forward (router, plan, experts, combine), four backward.

Kept for the backward beside x: the pre-activations, and a few numbers per token. Everything is written by the kernels
themselves: between the launches no op runs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from kernels.launch import architecture
from kernels.moae.plan import RoutingPlan
from kernels.moae.records import Experts, MoAERecord, MoAERequest, Router
from kernels.moae.router import Routing, record
from kernels.moae.tiles import router_tile
from kernels.moae.triton_combine import combine
from kernels.moae.triton_experts import experts_forward
from kernels.moae.triton_experts_backward import experts_backward
from kernels.moae.triton_plan import MOST_GROUPS, Blocks, plan_forward
from kernels.moae.triton_router import Noise, padded_experts, router_forward
from kernels.moae.triton_router_backward import RouterGradients, RouterState, router_backward
from kernels.moae.triton_weight_gradients import weight_gradients


class Outputs(NamedTuple):
    """What the forward returns; ``preactivation`` and ``slope`` are kept for the backward alone."""

    output: Tensor
    logits: Tensor
    gates: Tensor
    prob_sums: Tensor
    counts: Tensor
    ids: Tensor
    expert_offsets: Tensor
    order: Tensor
    slots: Tensor
    kept: Tensor
    preactivation: Tensor
    slope: Tensor


class Kept(NamedTuple):
    """Outputs of the forward that the backward reads."""

    logits: Tensor
    gates: Tensor
    ids: Tensor
    expert_offsets: Tensor
    order: Tensor
    slots: Tensor
    kept: Tensor
    preactivation: Tensor
    slope: Tensor


class Settings(NamedTuple):
    """Numbers of one call as the ops take them; ``capacity`` -1 is none."""

    top_k: int
    capacity: int
    groups: tuple[int, ...]

    def flat(self) -> list[int]:
        """One list, for a schema."""
        return [self.top_k, self.capacity, *self.groups]

    @classmethod
    def of(cls, flat: list[int]) -> Settings:
        """The inverse of ``flat``."""
        return cls(top_k=flat[0], capacity=flat[1], groups=tuple(flat[2:]))

    @property
    def limit(self) -> int | None:
        """Capacity, None for no limit."""
        return None if self.capacity < 0 else self.capacity


def _router(tensors: list[Tensor]) -> Router:
    weight, bias, *noise = (tensor.contiguous() for tensor in tensors)
    return Router(
        weight=weight, bias=bias, noise_weight=noise[0] if noise else None, noise_bias=noise[1] if noise else None
    )


def _experts(tensors: list[Tensor]) -> Experts:
    fc1, fc1_bias, fc2, fc2_bias = (tensor.contiguous() for tensor in tensors)
    return Experts(fc1_weight=fc1, fc1_bias=fc1_bias, fc2_weight=fc2, fc2_bias=fc2_bias)


def _noise(tensors: list[Tensor]) -> Noise:
    tensors = [tensor.contiguous() for tensor in tensors]
    if len(tensors) == 1:
        return Noise(values=tensors[0])
    return Noise(key=tensors[0], sample_key=tensors[1], token=tensors[2]) if tensors else Noise()


def forward(
    x: Tensor,
    router: list[Tensor],
    experts: list[Tensor],
    noise: list[Tensor],
    residual: Tensor | None,
    settings: list[int],
) -> Outputs:
    """Launch the forward. ``router``: weight and bias, twice with noise; ``noise``: none, values, key and counters."""
    call, x = Settings.of(settings), x.contiguous()
    _, all_columns = padded_experts(router[0].shape[0], bool(noise))
    tile = router_tile(architecture(x.device), x.dtype, all_columns)
    blocks = Blocks.of(call.groups, tile.tokens)
    routed = router_forward(x, _router(router), _noise(noise), call.top_k, blocks)
    plan, counts, prob_sums = plan_forward(
        routed.ids, routed.block_counts, routed.block_probs, call.limit, blocks, num_groups=len(call.groups) - 1
    )
    rows, preactivation = experts_forward(x, routed.gates, plan, _experts(experts))
    output = combine(rows, plan, None if residual is None else residual.contiguous())
    return Outputs(
        output=output,
        logits=routed.logits,
        gates=routed.gates,
        prob_sums=prob_sums,
        counts=counts,
        ids=routed.ids,
        expert_offsets=plan.expert_offsets,
        order=plan.order,
        slots=plan.slots,
        kept=plan.kept,
        preactivation=preactivation,
        slope=routed.slope,
    )


def backward(
    grads: list[Tensor | None],
    x: Tensor,
    router: list[Tensor],
    experts: list[Tensor],
    kept: list[Tensor],
    settings: list[int],
) -> list[Tensor]:
    """Launch the backward. ``grads`` of output, logits, gates and prob_sums; returns those of x, router and experts.

    Without a gradient of the output there are none of the experts.
    """
    call, x, state, weights = Settings.of(settings), x.contiguous(), Kept(*kept), _experts(experts)
    grad_out, grad_logits, grad_gates, grad_prob_sums = (None if grad is None else grad.contiguous() for grad in grads)
    plan = RoutingPlan(
        topk_expert_ids=state.ids,
        expert_offsets=state.expert_offsets,
        order=state.order,
        slots=state.slots,
        kept=state.kept,
        capacity=call.limit,
    )
    dx_rows = d_gates = None
    d_experts: list[Tensor] = []
    if grad_out is not None:
        dx_rows, d_gates, d_preactivation = experts_backward(grad_out, state.preactivation, state.gates, plan, weights)
        d_experts = list(
            weight_gradients(grad_out, x, state.preactivation, d_preactivation, state.gates, plan, experts=weights)
        )
        # The router's partials take its place.
        del d_preactivation
    gradients = RouterGradients(
        dx_rows=dx_rows,
        d_gates=d_gates,
        grad_gates=grad_gates,
        grad_logits=grad_logits,
        grad_prob_sums=grad_prob_sums,
    )
    routing = RouterState(
        logits=state.logits,
        slope=state.slope,
        noisy=len(router) == 4,
        gates=state.gates,
        plan=plan,
        bounds=Blocks.of(call.groups, 1).bounds,
    )
    dx, *d_router = router_backward(x, _router(router), routing, gradients)
    return [dx, *(gradient for gradient in d_router if gradient is not None), *d_experts]


_FORWARD_SCHEMA = (
    "(Tensor x, Tensor[] router, Tensor[] experts, Tensor[] noise, Tensor? residual, SymInt[] settings) -> ("
    + ", ".join(["Tensor"] * len(Outputs._fields))
    + ")"
)


@torch.library.custom_op("s4d::triton_moae", mutates_args=(), schema=_FORWARD_SCHEMA)
def triton_moae(
    x: Tensor,
    router: list[Tensor],
    experts: list[Tensor],
    noise: list[Tensor],
    residual: Tensor | None,
    settings: list[int],
) -> tuple[Tensor, ...]:
    """``forward`` as a torch op; its router has noise weights only if there is noise."""
    return tuple(forward(x, router, experts, noise, residual, settings))


@triton_moae.register_fake
def _(
    x: Tensor,
    router: list[Tensor],
    experts: list[Tensor],
    noise: list[Tensor],
    residual: Tensor | None,
    settings: list[int],
) -> tuple[Tensor, ...]:
    (num_tokens, width), (num_experts, hidden, _) = x.shape, experts[0].shape
    top_k, num_groups = settings[0], len(settings) - 3
    floats, integers = torch.float32, torch.int64
    return tuple(
        Outputs(
            output=x.new_empty(num_tokens, width),
            logits=x.new_empty(num_tokens, num_experts, dtype=floats),
            gates=x.new_empty(num_tokens, top_k, dtype=floats),
            prob_sums=x.new_empty(num_groups, num_experts, dtype=floats),
            counts=x.new_empty(num_groups, num_experts, dtype=integers),
            ids=x.new_empty(num_tokens, top_k, dtype=integers),
            expert_offsets=x.new_empty(num_experts + 1, dtype=torch.int32),
            order=x.new_empty(num_tokens * top_k, dtype=integers),
            slots=x.new_empty(num_tokens, top_k, dtype=integers),
            kept=x.new_empty(num_tokens, top_k, dtype=torch.bool),
            preactivation=x.new_empty(num_tokens * top_k, hidden),
            slope=x.new_empty(num_tokens if noise else 0, num_experts, dtype=floats),
        )
    )


@torch.library.custom_op(
    "s4d::triton_moae_backward",
    mutates_args=(),
    schema=(
        "(Tensor?[] grads, Tensor x, Tensor[] router, Tensor[] experts, Tensor[] kept, SymInt[] settings) -> Tensor[]"
    ),
)
def triton_moae_backward(
    grads: list[Tensor | None],
    x: Tensor,
    router: list[Tensor],
    experts: list[Tensor],
    kept: list[Tensor],
    settings: list[int],
) -> list[Tensor]:
    """``backward`` as a torch op."""
    return backward(grads, x, router, experts, kept, settings)


@triton_moae_backward.register_fake
def _(
    grads: list[Tensor | None],
    x: Tensor,
    router: list[Tensor],
    experts: list[Tensor],
    kept: list[Tensor],
    settings: list[int],
) -> list[Tensor]:
    return [tensor.new_empty(tensor.shape) for tensor in (x, *router, *(() if grads[0] is None else experts))]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, router, experts, noise, residual, settings = inputs
    outputs = Outputs(*output)
    kept = [getattr(outputs, name) for name in Kept._fields]
    ctx.save_for_backward(x, *router, *experts, *kept)
    ctx.settings, ctx.num_router, ctx.num_noise = list(settings), len(router), len(noise)
    ctx.has_residual = residual is not None
    ctx.mark_non_differentiable(outputs.preactivation, outputs.slope)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    x, *rest = ctx.saved_tensors
    router, experts, kept = (
        rest[: ctx.num_router],
        rest[ctx.num_router : ctx.num_router + 4],
        rest[ctx.num_router + 4 :],
    )
    dx, *others = triton_moae_backward(list(grads[:4]), x, router, experts, kept, ctx.settings)
    d_router, d_experts = others[: ctx.num_router], others[ctx.num_router :] or [None] * 4
    return dx, d_router, d_experts, [None] * ctx.num_noise, grads[0] if ctx.has_residual else None, None


triton_moae.register_autograd(_backward, setup_context=_setup_context)


def moae(x: Tensor, router: Router, experts: Experts, request: MoAERequest) -> tuple[Tensor, MoAERecord]:
    """Output (T, D) and record of tokens ``x`` (T, D). No gradient flows to a noise tensor."""
    maps, noise = [router.weight, router.bias], []
    if request.noise is not None and router.noise_weight is not None and router.noise_bias is not None:
        maps += [router.noise_weight, router.noise_bias]
        if isinstance(request.noise, Tensor):
            noise = [request.noise]
        else:
            noise = [request.noise.key, request.noise.sample_key, request.noise.token]
    few_groups = len(request.groups) <= MOST_GROUPS + 1
    settings = Settings(
        top_k=request.top_k,
        capacity=-1 if request.capacity is None else request.capacity,
        groups=tuple(request.groups) if few_groups else (0, x.shape[0]),
    )
    stacked = [experts.fc1_weight, experts.fc1_bias, experts.fc2_weight, experts.fc2_bias]
    found = Outputs(*triton_moae(x, maps, stacked, noise, request.residual, settings.flat()))
    plan = RoutingPlan(
        topk_expert_ids=found.ids,
        expert_offsets=found.expert_offsets,
        order=found.order,
        slots=found.slots,
        kept=found.kept,
        capacity=request.capacity,
    )
    if not few_groups:
        return found.output, record(Routing(logits=found.logits, gates=found.gates, plan=plan), request)
    return found.output, MoAERecord(
        plan=plan,
        router_logits=found.logits,
        gates=found.gates,
        counts=found.counts,
        prob_sums=found.prob_sums,
    )
