"""First choices of a planted router."""

from __future__ import annotations

from collections.abc import Callable

import torch

from s4d.analysis.pictures.expert_faces import first_choices, place_counts
from s4d.data.batch import PackedBatch
from s4d.models.build import build_finetune
from s4d.models.moae import RoutingTerms
from s4d.models.sizes import Architecture, MoaeArchitecture


def test_a_router_that_goes_by_position_is_seen(
    batch_of: Callable[..., PackedBatch],
    architecture_of: Callable[..., Architecture],
    experts_of: Callable[..., MoaeArchitecture],
) -> None:
    model = build_finetune(architecture_of(experts=experts_of()), {"faces": 3, "clips": 4}, seed=3).eval()
    plan = torch.tensor([[[3, 1], [0, 2]], [[1, 1], [2, 3]]])
    batch = batch_of(range(0), range(3))

    def by_position(module: torch.nn.Module, given: tuple[object, ...], output: tuple[object, RoutingTerms]) -> object:
        first = plan.flatten().repeat(3)
        ids = torch.stack([(first + 1) % 4, first], dim=1)
        gates = torch.tensor([0.2, 0.8]).expand(len(first), 2)
        return output[0], output[1]._replace(expert_ids=ids, gates=gates)

    for layer in model.arch.experts.layers if model.arch.experts is not None else ():
        model.blocks[layer].moae.register_forward_hook(by_position)
    with torch.inference_mode():
        routing = model(batch).routing
    choices = first_choices(routing, (3, 2, 2, 2))
    assert choices.shape == (3, 2, 2, 2, 2)
    assert (choices == plan).all()
    counts = place_counts(choices, 4)
    assert counts.shape == (2, 2, 2, 4)
    # Three clips, of which each place has two slices.
    assert (counts.sum(-1) == 6).all()
    assert counts[0, 0, 0].tolist() == [0, 3, 0, 3] and counts[1, 0, 1].tolist() == [0, 6, 0, 0]


def test_the_models_own_first_choice_has_the_largest_logit(
    batch_of: Callable[..., PackedBatch],
    architecture_of: Callable[..., Architecture],
    experts_of: Callable[..., MoaeArchitecture],
) -> None:
    model = build_finetune(architecture_of(experts=experts_of()), {"faces": 3, "clips": 4}, seed=3).eval()
    with torch.inference_mode():
        routing = model(batch_of(range(2), range(0))).routing
    choices = first_choices(routing, (2, 1, 2, 2))
    for layer, terms in enumerate(routing):
        assert torch.equal(choices[:, layer].flatten(), terms.router_logits.argmax(1))


def test_without_experts_there_is_nothing() -> None:
    assert first_choices((), (3, 2, 2, 2)).shape == (3, 0, 2, 2, 2)
