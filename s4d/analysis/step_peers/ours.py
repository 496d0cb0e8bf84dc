"""Our models on the packed batch of a case, in a bare training loop: no engine, no guard, no log.

Half precision is that of the engine: the model computes with bfloat16 weights, AdamW updates float32 ones.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from s4d.analysis.step_peers.side import DTYPES, Side, Trial
from s4d.data.batch import PackedBatch
from s4d.models.classifier import ClassifierOutput, FinetuneModel
from s4d.models.mae import PretrainModel
from s4d.models.stream import group_tokens, masked_layout

# For all sides alike; the values do not matter for the time.
LEARNING_RATE = 1e-4
BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.05
MAX_GRAD_NORM = 1.0


class LossModel(nn.Module):
    """A model of ours whose forward is the loss: over the modalities, the sum of the means of each.

    The balance term of the experts is left out, which the release never applies.
    """

    def __init__(self, model: PretrainModel | FinetuneModel) -> None:
        super().__init__()
        self.model = model

    def losses(self, batch: PackedBatch) -> dict[str, Tensor]:
        """Mean loss by modality."""
        if isinstance(self.model, PretrainModel):
            sums: dict[str, Tensor] = self.model(batch)
            counts = group_tokens(batch, masked_layout(batch))
            masked = {group.modality: count for group, count in zip(batch.groups, counts, strict=True)}
            return {name: value / masked[name] for name, value in sums.items()}
        output: ClassifierOutput = self.model(batch)
        found = {}
        for head in batch.heads:
            logits = output.logits[head.head].index_select(0, head.sequences)
            loss = -(head.targets.to(logits.dtype) * logits.log_softmax(1)).sum()
            found[head.modality] = loss / max(1, batch.step_samples[head.modality])
        return found

    def forward(self, batch: PackedBatch) -> Tensor:
        """The step's loss."""
        return torch.stack(list(self.losses(batch).values())).sum()


class BareLoop:
    """Forward, backward, gradient norm, AdamW: what an engine cannot do without."""

    def __init__(self, module: nn.Module, weights: list[nn.Parameter], batch: PackedBatch, precision: str) -> None:
        self.module = module
        self.batch = batch
        self.weights = weights
        self.masters = weights
        if precision != "fp32":
            self.masters = [nn.Parameter(weight.detach().clone()) for weight in weights]
            for weight in weights:
                weight.data = weight.data.to(DTYPES[precision])
        self.optimizer = torch.optim.AdamW(
            self.masters, lr=LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True
        )

    def step(self) -> None:
        """One optimizer step; the host waits for nothing."""
        self.module(self.batch).backward()
        if self.masters is not self.weights:
            self._hand_over()
        nn.utils.clip_grad_norm_(self.masters, MAX_GRAD_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.masters is not self.weights:
            with torch.no_grad():
                torch._foreach_copy_(tuple(self.weights), tuple(self.masters))

    def _hand_over(self) -> None:
        """Gradients of the weights to their masters; every weight takes part in every step."""
        gradients = [weight.grad for weight in self.weights if weight.grad is not None]
        wide = [torch.empty_like(master) for master in self.masters]
        torch._foreach_copy_(wide, gradients)
        for weight, master, gradient in zip(self.weights, self.masters, wide, strict=True):
            weight.grad, master.grad = None, gradient

    def loss(self) -> float:
        """Loss of the current weights."""
        with torch.no_grad():
            return float(self.module(self.batch))


def bare(trial: Trial, precision: str) -> Side:
    """Our model with the backends that its ops pick by themselves."""
    model = LossModel(trial.model()).train()
    loop = BareLoop(model, list(model.parameters()), trial.batch, precision)
    return Side(step=loop.step, loss=loop.loss)
