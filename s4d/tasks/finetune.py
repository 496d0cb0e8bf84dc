"""Joint static and dynamic expression recognition: one head per source, with or without adapter experts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import s4d
from s4d.config import Config
from s4d.data.batch import MODALITIES, PackedBatch
from s4d.data.input_recipe import input_recipe
from s4d.data.sources import EmptySplitError, load_sources
from s4d.errors import UsageError
from s4d.models.build import build_finetune
from s4d.models.classifier import ClassifierOutput, HeadNameError
from s4d.models.compiled import choose_forwards
from s4d.models.sizes import architecture
from s4d.models.weights import load_initial
from s4d.tasks.balance import choice_counts, release_shares, switch_shares
from s4d.tasks.base import StepOutput
from s4d.tasks.collective import is_distributed, sum_over_ranks
from s4d.tasks.cross_labels import cross_label_shares
from s4d.tasks.distillation import distillation_share
from s4d.tasks.evaluate import Evaluator, SourceResult
from s4d.tasks.evaluation_files import write_evaluation
from s4d.tasks.layers import encoder_layer
from s4d.tasks.logit_adjustment import logit_offsets
from s4d.tasks.origins import metrics_of
from s4d.tasks.shared_classes import SharedClasses, shared_classes


class FinetuneTask:
    """Loss: sum over modalities of weight x (mean soft-target cross-entropy + balance weight x balance term).

    A packed step equals the weighted sum of single-modality steps, and cutting it into ranks and micro batches changes
    nothing; except with a capacity factor, under which the tokens that experts drop depend on the whole micro batch.
    The terms of `config.loss` are off unless asked for; `class_priors` are what logit adjustment needs of the data.
    """

    def __init__(
        self,
        config: Config,
        weights: Mapping[str, float],
        classes: Mapping[str, tuple[str, ...]],
        *,
        rank: int,
        world_size: int,
        device: torch.device,
        crops: Mapping[str, str] | None = None,
        origins: Mapping[str, Any] | None = None,
        class_priors: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        self.config = config
        self.weights = dict(weights)
        self.crops = dict(crops or {})
        self.origins = dict(origins or {})
        self.metrics: dict[str, Any] | None = None
        self.classes = {name: tuple(names) for name, names in classes.items()}
        self.rank = rank
        self.device = device
        self.class_priors = {name: list(shares) for name, shares in (class_priors or {}).items()}
        self._offsets = self._logit_offsets()
        self._pairs = self._shared_classes()
        self._evaluator = Evaluator(config, rank=rank, world_size=world_size, device=device)
        arch = architecture(config.model, experts=config.mode == "moae")
        heads = {name: len(names) for name, names in self.classes.items()}
        try:
            model = build_finetune(arch, heads, config.seed, config.engine.backends)
        except HeadNameError as error:
            raise UsageError(f"data.sources: {error}") from error
        if config.model.init_from is not None:
            load_initial(
                model,
                Path(config.model.init_from),
                classes=self.classes,
                init_final_norm=config.model.init_final_norm,
            )
        self.arch = arch
        choose_forwards(model, config.engine.backends.get("blocks"), zero_stage=config.engine.zero_stage)
        self.module: nn.Module = model.to(device)

    def begin_step(self, module: nn.Module, batches: list[PackedBatch]) -> Tensor | None:
        """Expert choices of the whole step, (layers, modalities, experts), where one forward does not tell them.

        Noise and drop path are part of the batch, so the counting forward chooses as the training forward will.
        """
        if len(batches) == 1 or not self._needs_counts():
            return None
        with torch.no_grad():
            counts = [choice_counts(module(batch.to(self.device)).routing) for batch in batches]
        return sum_over_ranks(torch.stack(counts).sum(0))

    def forward(self, module: nn.Module, batch: PackedBatch, statistics: Tensor | None = None) -> StepOutput:
        """This batch's share of the step's loss."""
        output: ClassifierOutput = module(batch)
        losses, hits = self._head_shares(output, batch)
        balances = self._balance_shares(output, batch, statistics)
        weight = self.config.model.moae.balance_weight
        terms = [self.weights[name] * share for name, share in losses.items()]
        terms += [self.weights[name] * weight * share for name, share in balances.items()]
        parts = {f"loss/{name}": share.detach() for name, share in losses.items() if batch.step_samples.get(name)}
        parts |= {f"balance/{name}": share.detach() for name, share in balances.items()}
        for name, (weight, share) in self._shares_between_heads(output, batch).items():
            terms.append(weight * share)
            parts[name] = share.detach()
        metrics = {f"accuracy/{name}": hits[name] for name in losses if batch.step_samples.get(name)}
        return StepOutput(loss=torch.stack(terms).sum(), parts=parts, metrics=metrics)

    @property
    def forward_has_collectives(self) -> bool:
        """Whether ranks add up expert choices there, as they do where one micro batch is all of a step."""
        return self._needs_counts() and self.config.batch.accumulation == 1 and is_distributed()

    def _head_shares(self, output: ClassifierOutput, batch: PackedBatch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Cross-entropy and hits of each modality over its samples in the whole step; an absent head gives 0."""
        losses: dict[str, Tensor] = {}
        hits: dict[str, Tensor] = {}
        for head in batch.heads:
            logits = output.logits[head.head].index_select(0, head.sequences)
            targets = head.targets.to(logits.dtype)
            samples = max(1, batch.step_samples.get(head.modality, 0))
            adjusted = logits + self._offsets[head.head].to(logits.dtype) if self._offsets else logits
            loss = -(targets * adjusted.log_softmax(1)).sum() / samples
            hit = (logits.detach().argmax(1) == targets.argmax(1)).sum() / samples
            losses[head.modality] = losses[head.modality] + loss if head.modality in losses else loss
            hits[head.modality] = hits[head.modality] + hit if head.modality in hits else hit
        return losses, hits

    def _logit_offsets(self) -> dict[str, Tensor]:
        tau = self.config.loss.logit_adjustment
        if tau == 0:
            return {}
        for head, names in self.classes.items():
            if len(self.class_priors.get(head, ())) != len(names):
                raise ValueError(f"class_priors: expected one of each class of head {head}, got {self.class_priors}")
        return logit_offsets(self.class_priors, tau, self.device)

    def _shared_classes(self) -> tuple[SharedClasses, ...]:
        loss = self.config.loss
        if loss.static_distillation == 0 and loss.cross_labels == 0:
            return ()
        field = "loss.static_distillation" if loss.static_distillation > 0 else "loss.cross_labels"
        modalities = {source.name: source.modality for source in self.config.data.sources}
        return shared_classes(self.classes, modalities, self.device, field=field)

    def _shares_between_heads(self, output: ClassifierOutput, batch: PackedBatch) -> dict[str, tuple[float, Tensor]]:
        """Terms in which a head meets the other modality, by name with their weights; none where they are off."""
        loss, found = self.config.loss, {}
        if loss.static_distillation > 0 and batch.step_samples.get("video"):
            share = distillation_share(output.logits, batch, self._pairs)
            found["distillation/video"] = (self.weights["video"] * loss.static_distillation, share)
        if loss.cross_labels > 0:
            shares = cross_label_shares(output.logits, batch, self._pairs)
            present = [name for name in shares if batch.step_samples.get(name)]
            found |= {f"cross/{name}": (self.weights[name] * loss.cross_labels, shares[name]) for name in present}
        return found

    def _needs_counts(self) -> bool:
        moae = self.config.model.moae
        return self.arch.experts is not None and moae.balance == "switch" and moae.balance_weight > 0

    def _balance_shares(
        self, output: ClassifierOutput, batch: PackedBatch, statistics: Tensor | None
    ) -> dict[str, Tensor]:
        if self.arch.experts is None or self.config.model.moae.balance_weight == 0:
            return {}
        if self.config.model.moae.balance == "release":
            images = sum(group.pixels.shape[0] for group in batch.groups if group.modality == "image")
            return release_shares(output.routing, batch.layout, images, batch.step_samples)
        counts = statistics if statistics is not None else sum_over_ranks(choice_counts(output.routing))
        step_tokens = {name: batch.step_samples.get(name, 0) * self.arch.tokens(name) for name in MODALITIES}
        return switch_shares(output.routing, counts, step_tokens, self.arch.experts.top_k)

    def evaluate(self, module: nn.Module, split: str) -> dict[str, float]:
        """UAR and WAR of every source on held-out data, or on the test split under the released protocol."""
        if split == "val" and self.config.evaluation.protocol == "release":
            split = "test"
        elif split == "val" and not self._has_validation():
            return {}
        results = self._evaluator.evaluate(module, split)
        self.metrics = metrics_of(self.config, results)
        return _summary(results)

    def _has_validation(self) -> bool:
        try:
            load_sources(self.config, "val")
        except EmptySplitError:
            return False
        return True

    def finish(self, module: nn.Module, run_dir: Path, weights: str) -> dict[str, float]:
        """Evaluate on the test split; rank 0 writes scores, predictions and expert loads."""
        frame_baseline = self.config.evaluation.frame_baseline
        results = self._evaluator.evaluate(module, "test", frame_baseline=frame_baseline)
        if weights == "last":
            self.metrics = metrics_of(self.config, results)
        if self.rank == 0:
            write_evaluation(results, self.arch.experts, run_dir, suffix="" if weights == "last" else f"-{weights}")
        return _summary(results)

    def describe(self) -> dict[str, Any]:
        """Content of a checkpoint's config.json, with the last evaluation of these weights if there was one."""
        return {
            "stage": "finetune",
            "architecture": self.arch.to_dict(),
            "classes": {name: list(names) for name, names in self.classes.items()},
            "crop": self.crops,
            **self.origins,
            "inputs": {source.name: input_recipe(self.config, source).to_dict() for source in self.config.data.sources},
            "loss_weights": self.weights,
            **({"class_priors": self.class_priors} if self.class_priors else {}),
            **({"metrics": self.metrics} if self.metrics else {}),
            "version": s4d.__version__,
        }

    def layer_of(self, parameter_name: str) -> int | None:
        """Depth in the encoder; experts and routers have none unless the released rule is asked for."""
        if ".moae." in parameter_name and not self.config.model.moae.layer_decay:
            return None
        return encoder_layer(parameter_name, self.arch.depth)

    def lr_multiplier(self, parameter_name: str) -> float:
        """Experts and routers have their own factor."""
        return self.config.model.moae.lr_multiplier if ".moae." in parameter_name else 1.0

    @property
    def num_layers(self) -> int:
        """Depth of the final norm and the heads."""
        return self.arch.depth + 1


def _summary(results: Mapping[str, SourceResult]) -> dict[str, float]:
    return {f"{name}.{key}": value for name, result in results.items() for key, value in result.summary().items()}
