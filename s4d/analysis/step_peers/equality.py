"""Whether two sides compute the same: losses and a few gradients in float32, from the same weights and inputs.

Both sum the same products in another order, so they differ by rounding alone. A loss is a mean over thousands of terms
and comes out within a few units in the last place of float32 (6e-8): 1e-5 leaves room for the largest models. Gradients
pass through every layer: 1e-4 of their norm, the bound that recorded results of the released classes are held to in
float32 (`s4d golden`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from s4d.analysis.step_peers.ours import LossModel
from s4d.analysis.step_peers.release_eager import ReleaseFinetune, ReleasePretrain, release_inputs, release_model
from s4d.analysis.step_peers.side import Trial
from s4d.data.batch import PackedBatch
from s4d.models.release import from_release

LOSS_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4
# In half precision a loss is a mean of values rounded to 8 bit: half a unit of 2^-8 each, less in the mean.
HALF_TOLERANCE = 1e-2
# Gradients smaller than this share of the largest one are measured against that share.
LEAST_SHARE = 1e-4
# Logits of order one differ by some 1e-6 where a model of twelve layers sums in another order. About four choices in a
# million are within 1e-6 of a tie, and a large batch makes hundreds of thousands.
TIE, TRIES = 5e-6, 16

# Tensors of both ends and the middle, by the end of their names.
WATCHED = (
    "patch_embed.proj.weight",
    "blocks.0.attn.qkv.weight",
    "blocks.0.attn.q_bias",
    "blocks.0.mlp.fc1.weight",
    "encoder_to_decoder.weight",
    "mask_token",
    "decoder.head.weight",
    "moae.router_weight",
    "moae.noise_weight",
    "moae.fc1_weight",
    "moae.fc2_weight",
    "moae.fc2_bias",
    "fc_norm.weight",
    "head.image.weight",
    "head.video.weight",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Equality:
    """Relative errors by modality (`losses`) and tensor (`gradients`); `loss` is ours, summed over the modalities."""

    loss: float
    losses: Mapping[str, float]
    gradients: Mapping[str, float]

    @property
    def passed(self) -> bool:
        """Whether everything is within tolerance; never for NaN."""
        return all(error <= LOSS_TOLERANCE for error in self.losses.values()) and all(
            error <= GRADIENT_TOLERANCE for error in self.gradients.values()
        )

    @property
    def text(self) -> str:
        """The worst of each."""
        loss = max(self.losses, key=lambda name: self.losses[name])
        gradient = max(self.gradients, key=lambda name: self.gradients[name])
        return (
            f"loss of {loss} samples differs by {self.losses[loss]:.2g} (at most {LOSS_TOLERANCE:g}), "
            f"gradient of {gradient} by {self.gradients[gradient]:.2g} (at most {GRADIENT_TOLERANCE:g})"
        )


def without_ties(trial: Trial) -> Trial:
    """The trial with router noise under which, of a few draws, no two experts are nearly as good for any token.

    A token in a tie may take either expert, which changes gradients by far more than rounding does.
    """
    if trial.case.shape.task == "pretrain":
        return trial
    model, best, gap = trial.model().train(), trial, -1.0
    for shift in range(TRIES):
        keys = trial.batch.noise_keys + shift * trial.batch.noise_keys.numel()
        moved = dataclasses.replace(trial, batch=dataclasses.replace(trial.batch, noise_keys=keys))
        with exact_float32(), torch.no_grad():
            routing = model(moved.batch).routing
        found = min(_smallest_gap(terms.router_logits, terms.expert_ids.shape[1]) for terms in routing)
        if found > gap:
            best, gap = moved, found
        if gap > TIE:
            break
    return best


def _smallest_gap(logits: Tensor, chosen: int) -> float:
    """Between the last expert that is chosen and the first that is not."""
    best = logits.float().topk(min(chosen + 1, logits.shape[1]), dim=1).values
    return float((best[:, chosen - 1] - best[:, -1]).min()) if logits.shape[1] > chosen else math.inf


def release_equality(trial: Trial) -> Equality:
    """The released pattern against our model with the backends it picks by itself."""
    with exact_float32():
        ours = LossModel(trial.model()).train()
        reference = of_ours(ours, trial.batch)
        other = release_model(ours.model).train()
        found = of_release(other, trial.batch)
    return compare(reference, found)


def backends_equality(trial: Trial, backends: Mapping[str, str]) -> Equality:
    """Our model with named backends against the one with the backends it picks by itself.

    On CUDA torch's grouped products take no float32: the definition stands in for them, and only the loss in bfloat16
    speaks for them.
    """
    if trial.device.type == "cuda" and backends.get("moae") == "grouped":
        backends = {**backends, "moae": "reference"}
    with exact_float32():
        reference = of_ours(LossModel(trial.model()).train(), trial.batch)
        found = of_ours(LossModel(trial.model(backends)).train(), trial.batch)
    return compare(reference, found)


Results = tuple[dict[str, float], dict[str, Tensor]]


def of_ours(model: LossModel, batch: PackedBatch) -> Results:
    """Losses by modality and gradients of their sum."""
    losses = model.losses(batch)
    torch.stack(list(losses.values())).sum().backward()
    values = {name: float(value.detach()) for name, value in losses.items() if batch.step_samples[name]}
    return values, _watched({name: weight.grad for name, weight in model.model.named_parameters()})


def of_release(model: ReleasePretrain | ReleaseFinetune, batch: PackedBatch) -> Results:
    """Losses by modality and gradients, under our names, of their sum."""
    values = {}
    for inputs in release_inputs(batch, model.arch, next(model.parameters()).dtype):
        loss = model(inputs)
        loss.backward()
        values[inputs.modality] = float(loss.detach())
    # A tensor that took no part, such as the head of the other modality, has a gradient of zero.
    gradients = {
        name: torch.zeros_like(weight) if weight.grad is None else weight.grad
        for name, weight in model.named_parameters()
    }
    return values, _watched(from_release(gradients)[0])


def _watched(gradients: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
    return {
        name: value.detach().double()
        for name, value in gradients.items()
        if value is not None and name.endswith(WATCHED)
    }


def compare(reference: Results, found: Results) -> Equality:
    """Errors of `found` relative to `reference`; a missing loss or gradient is an infinite one."""
    losses, gradients = reference
    # With one visible token, attention passes nothing to queries and keys: what is left there is rounding.
    least = LEAST_SHARE * max(float(value.norm()) for value in gradients.values())

    def error(name: str, value: Tensor) -> float:
        other = found[1].get(name)
        return math.inf if other is None else float((other - value).norm()) / max(float(value.norm()), least)

    return Equality(
        loss=sum(losses.values()),
        losses={name: abs(found[0].get(name, math.inf) - value) / abs(value) for name, value in losses.items()},
        gradients={name: error(name, value) for name, value in gradients.items()},
    )


def float32_loss(trial: Trial) -> float:
    """Loss of our model in float32, summed over the modalities."""
    with exact_float32(), torch.no_grad():
        return float(LossModel(trial.model()).train()(trial.batch))


@contextmanager
def exact_float32() -> Iterator[None]:
    """Products of float32 in float32: convolutions on CUDA may shorten their operands otherwise."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
