"""What was added to the method, one config value each: a table for `s4d science`, which trains and compares every row.

All are off in every preset and refused by the release recipe. A row says what is changed and why it may help; whether
it does is what the experiment is for.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Variation:
    """One idea: what it sets in fine-tuning and in the pre-training before it, why it may help, where it is from."""

    name: str
    title: str
    overrides: tuple[str, ...] = ()
    pretraining_overrides: tuple[str, ...] = ()
    sentence: str
    source: str


VARIATIONS: tuple[Variation, ...] = (
    Variation(
        name="logit-adjustment",
        title="logit adjustment",
        overrides=("loss.logit_adjustment=1.0",),
        sentence=(
            "The log of each class's share of the training draws is added to the logits in the loss alone, so that the "
            "prediction does not carry the prior and the mean recall over classes is what is optimised; where all "
            "classes are equally frequent it changes nothing."
        ),
        source='Menon et al., "Long-tail learning via logit adjustment", ICLR 2021',
    ),
    Variation(
        name="modality-prior",
        title="modality-conditioned router",
        overrides=("model.moae.modality_prior=true",),
        sentence=(
            "Each router learns a bias for stills and one for clips, so that experts can be set apart for a task "
            "before a token's content is seen; the balance term, which evens out the load within each modality, holds "
            "it back, so it is worth a second row with model.moae.balance_weight=0.001."
        ),
        source='task-level routing: Kudugunta et al., "Beyond Distillation: Task-level Mixture-of-Experts", 2021',
    ),
    Variation(
        name="shared-expert",
        title="one shared expert",
        overrides=("model.moae.shared_experts=1",),
        sentence=(
            "One adapter serves every token beside the two that are routed to, and holds what both tasks have in "
            "common; it adds its own parameters and arithmetic, for which model.moae.top_k=3 without it is the control."
        ),
        source='Dai et al., "DeepSeekMoE: Towards Ultimate Expert Specialization", 2024',
    ),
    Variation(
        name="motion",
        title="motion in pre-training",
        pretraining_overrides=("loss.motion=0.5",),
        sentence=(
            "The error in the change between the two frames of a clip's tubelet counts three times as much in "
            "pre-training, where neighbouring frames are so alike that plain reconstruction hardly asks for it."
        ),
        source=(
            'temporal differences as a target: Sun et al., "Masked Motion Encoding for Self-Supervised Video '
            'Representation Learning", CVPR 2023'
        ),
    ),
    Variation(
        name="static-distillation",
        title="distillation from the static head",
        overrides=("loss.static_distillation=0.5",),
        sentence=(
            "The clips' head is drawn towards what the static head, which takes no gradient from it, says of the same "
            "clip over the classes both have by name: a soft label from the larger set."
        ),
        source='Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, from one head to another',
    ),
    Variation(
        name="cross-labels",
        title="labels across modalities",
        overrides=("loss.cross_labels=0.5",),
        sentence=(
            "The clips' head is trained on stills too, and the static head on clips, over the classes both have by "
            "name: a head of few clips so has the labels of all stills, at the price of a softmax."
        ),
        source=(
            'joint training: Zhang et al., "Co-training Transformer with Videos and Images Improves Action '
            'Recognition", 2021, there with heads apart'
        ),
    ),
)
