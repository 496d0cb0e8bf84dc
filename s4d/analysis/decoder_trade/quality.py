"""What a pre-trained model is worth without training it further: its loss on unseen samples, and a linear probe.

The probe is a multinomial logistic regression on the encoder's pooled features of the training split, standardised,
with one fixed penalty for all; nothing in it is random. Letters: n samples, D width, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.reconstruction import patch_targets
from s4d.config import Config
from s4d.data.evaluation import EvalBatches, build_evaluation
from s4d.data.sources import head_classes
from s4d.errors import DataError
from s4d.metrics import scores
from s4d.models.build import build_finetune, build_pretrain
from s4d.models.folder import find_model, read_architecture
from s4d.models.sizes import architecture
from s4d.models.weights import load_initial

PENALTY = 1e-3
ITERATIONS = 200


def held_out_losses(config: Config, run_dir: Path, device: torch.device) -> dict[str, float]:
    """Mean loss over all masked tokens of the test samples by modality, whatever share was trained on.

    Masks depend on the samples alone, so they are the same for every model.
    """
    model = build_pretrain(read_architecture(find_model(run_dir)), 0)
    load_initial(model, run_dir)
    model.to(device).eval()
    arch = model.arch
    found = {}
    for source in config.data.sources:
        total = count = 0.0
        batches = build_evaluation(config, "test", source.name, 0, 1)
        for item in batches:
            batch = item.batch.to(device)
            with torch.no_grad():
                prediction = model(batch, predict=True)["prediction"][batch.masked_indices].float()
            pixels = batch.groups[0].pixels
            target = patch_targets(pixels, batch.masked_indices, arch.patch_size, arch.tubelet_size)
            losses = (prediction - target).square().mean(1).view(pixels.shape[0], -1).mean(1).cpu()
            total += float((losses * item.weights).sum())
            count += float(item.weights.sum())
        _readable(batches)
        found[f"loss/{source.modality}"] = total / count
    return found


def probe_scores(config: Config, run_dir: Path | None, seed: int, device: torch.device) -> dict[str, float]:
    """Unweighted average recall of a linear probe on the test split of each source, by modality.

    Without a run the encoder has the weights that `seed` starts it with.
    """
    classes = head_classes(config)
    heads = {name: len(names) for name, names in classes.items()}
    model = build_finetune(architecture(config.model, experts=False), heads, seed)
    if run_dir is not None:
        load_initial(model, run_dir, init_final_norm=True)
    model.to(device).eval()
    found = {}
    for source in config.data.sources:
        train, test = (
            _features(model, build_evaluation(config, split, source.name, 0, 1), device) for split in ("train", "test")
        )
        predicted = probe(*train, len(classes[source.name]))(test[0])
        result = scores(test[1].numpy(), predicted.numpy(), classes[source.name])
        found[f"uar/{source.modality}"] = result.uar
    return found


def probe(features: Tensor, labels: Tensor, classes: int) -> Callable[[Tensor], Tensor]:
    """Fit features (n, D) in float64 to labels (n,); gives the function from features to predicted classes."""
    mean, spread = features.mean(0), features.std(0).clamp_min(1e-6)
    weight = torch.zeros(classes, features.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS((weight, bias), max_iter=ITERATIONS, line_search_fn="strong_wolfe")
    standard = (features - mean) / spread

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(standard, weight, bias), labels) + PENALTY * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return lambda others: F.linear((others - mean) / spread, weight.detach(), bias.detach()).argmax(1)


def _features(model: nn.Module, batches: EvalBatches, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pooled features (n, D) of every readable sample, in float64, and its label."""
    features, labels = [], []
    for item in batches:
        with torch.no_grad():
            pooled = model(item.batch.to(device)).features
        there = item.weights > 0
        features.append(pooled.cpu().double()[there])
        labels.append(item.labels[there])
    _readable(batches)
    return torch.cat(features), torch.cat(labels)


def _readable(batches: EvalBatches) -> None:
    if batches.refused:
        raise DataError(batches.refused)


def figures(
    pretrain: Config, finetune: Config, run_dir: Path | None, seed: int, device: torch.device
) -> Mapping[str, float]:
    """Both, for a pre-trained run; the probe alone without one."""
    losses = {} if run_dir is None else held_out_losses(pretrain, run_dir, device)
    return {**losses, **probe_scores(finetune, run_dir, seed, device)}
