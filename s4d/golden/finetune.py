"""Replay of a stored classifier: routing, features, logits, losses and gradients."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s4d.errors import DataError
from s4d.golden.fixture import Fixture, batch_of
from s4d.golden.pretrain import gradient_checks
from s4d.golden.report import TensorCheck, compare
from s4d.models.classifier import ClassifierOutput, FinetuneModel
from s4d.models.moae import MoaeAdapters, RoutingTerms
from s4d.models.vit import Backends
from s4d.tasks.balance import release_shares

AUXILIARY_WEIGHT = 1e-3


def replay_finetuning(fixture: Fixture, dtype: torch.dtype, backends: Backends) -> list[TensorCheck]:
    """Checks of every output and gradient in the file."""
    arch = fixture.architecture()
    heads = fixture.config.get("classes")
    if not isinstance(heads, dict):
        raise DataError(f"{fixture.path}: metadata 'config' lacks 'classes'")
    model = FinetuneModel(arch, heads, backends)
    fixture.load_state(model)
    model.to(dtype)
    checks = []
    for modality in fixture.modalities:
        batch = batch_of(fixture, modality, arch, dtype)
        count, tokens = batch.layout[0]
        model.zero_grad(set_to_none=True)
        with MoaeProbe(model) as probe:
            output: ClassifierOutput = model(batch, noise=_noise(fixture, modality, model, count * tokens))
        cross_entropy = F.cross_entropy(output.logits[modality], fixture.take(f"{modality}.label"))
        auxiliary = torch.zeros((), dtype=dtype)
        if output.routing:
            images = count if modality == "image" else 0
            auxiliary = release_shares(output.routing, batch.layout, images, {modality: count})[modality]
        (cross_entropy + AUXILIARY_WEIGHT * auxiliary).backward()
        outputs = {
            "logits": output.logits[modality],
            "feature": output.features,
            "ce": cross_entropy.view(1),
            "aux_loss": auxiliary.view(1),
        }
        for name, ours in outputs.items():
            checks.append(compare(f"{modality}.{name}", ours, fixture.take(f"{modality}.{name}"), dtype))
        checks += _routing_checks(fixture, modality, probe, output, dtype)
        checks += gradient_checks(fixture, modality, model, dtype)
    return checks


class MoaeProbe:
    """Records what goes into and comes out of every MoAE layer while it is entered."""

    def __init__(self, model: FinetuneModel) -> None:
        blocks = enumerate(model.blocks)
        self.layers = {layer: moae for layer, block in blocks if isinstance(moae := block.moae, MoaeAdapters)}
        self.inputs: dict[int, Tensor] = {}
        self.outputs: dict[int, Tensor] = {}
        self._hooks: list[Any] = []

    def __enter__(self) -> MoaeProbe:
        for layer, module in self.layers.items():
            self._hooks.append(module.register_forward_hook(partial(self._record, layer)))
        return self

    def __exit__(self, *exception: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _record(
        self, layer: int, module: nn.Module, arguments: tuple[Any, ...], output: tuple[Tensor, RoutingTerms]
    ) -> None:
        x, residual = arguments[:2]
        self.inputs[layer] = x
        # The stored output is that of the experts alone, ours has the dense MLP's added.
        self.outputs[layer] = output[0] - residual


def _noise(fixture: Fixture, modality: str, model: FinetuneModel, tokens: int) -> tuple[Tensor, ...]:
    """Recorded unit normals of each MoAE layer, in order; zeros where the file says that none were added."""
    noise, noisy = [], bool(fixture.config.get("noise"))
    experts = model.arch.experts
    for place in range(len(experts.layers) if experts is not None else 0):
        assert experts is not None
        name = f"{modality}.noise.{place}"
        shape = (tokens, experts.num_experts)
        recorded = fixture.named(name).get("")
        noise.append(torch.zeros(shape) if not noisy or recorded is None else recorded.reshape(shape))
    return tuple(noise)


def _routing_checks(
    fixture: Fixture, modality: str, probe: MoaeProbe, output: ClassifierOutput, dtype: torch.dtype
) -> list[TensorCheck]:
    checks = []
    for layer, terms in zip(probe.layers, output.routing, strict=True):
        gates = torch.zeros_like(terms.router_logits).scatter(1, terms.expert_ids, terms.gates)
        router = f"blocks.{layer}.moe_layer.router"
        tensors = {
            f"gates.{router}": gates,
            f"topk.{router}": terms.expert_ids,
            f"moe_in.{layer}": probe.inputs[layer],
            f"moe_out.{layer}": probe.outputs[layer],
        }
        for name, ours in tensors.items():
            stored = fixture.take(f"{modality}.{name}")
            checks.append(compare(f"{modality}.{name}", ours.reshape(*stored.shape[:2], -1), stored, dtype))
    return checks
