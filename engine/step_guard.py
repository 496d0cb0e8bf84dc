"""Steps that are not finite stay out of the weights: the same decision on all ranks, taken before the update."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from engine.ds_engine import norm_before_step
from engine.errors import NonFiniteError, PeerFailedError
from engine.protocols import Batch, StepResult
from engine.runtime import Runtime, say


class Diagnose(Protocol):
    """Says what is wrong with a step, see `engine.diagnosis`."""

    def __call__(self, step: int, batches: Sequence[Batch], *, own_loss_is_bad: bool) -> str: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class _Last:
    """The step whose outcome the host does not know yet."""

    step: int
    batches: Sequence[Batch]
    own_loss: Tensor


class StepGuard:
    """Applies steps, but for those whose loss on any rank, or whose gradient norm, is not finite.

    The decision is a flag on the device, which AdamW reads there. The host learns of it at the latest before the next
    update, while that step's work is already queued, so it never waits for the device because of it.
    """

    def __init__(
        self,
        engine: Any,
        *,
        runtime: Runtime,
        most_skipped: int,
        diagnose: Diagnose,
        on_good: Callable[[int], None],
        on_bad: Callable[[int, str], None],
    ) -> None:
        self._engine = engine
        self._runtime = runtime
        self._most_skipped = most_skipped
        self._diagnose = diagnose
        self._on_good = on_good
        self._on_bad = on_bad
        self._last: _Last | None = None
        self._streak = 0
        self.owes_save = False
        adamw: torch.optim.AdamW = engine.basic_optimizer
        # The fused AdamW leaves weights, moments and its step counters alone where this is 1.
        self._bad = torch.zeros((), dtype=torch.float32, device=_device_of(adamw))
        adamw.found_inf = self._bad  # type: ignore[attr-defined]
        adamw.register_step_pre_hook(lambda *_: self._look_at_norm())
        self._known = torch.zeros((), pin_memory=True) if self._bad.is_cuda else self._bad
        self._arrived = torch.cuda.Event() if self._bad.is_cuda else None

    @torch.no_grad()
    def update(self, step: int, batches: Sequence[Batch], results: Sequence[StepResult]) -> float | Tensor:
        """Finish optimizer step `step` (the first is 1) after its last backward; returns the gradient norm.

        Collective. NonFiniteError on rank 0 and PeerFailedError elsewhere where too many steps in a row were bad.
        """
        self.settle()
        own_loss = torch.stack([result.loss.detach().double() for result in results]).sum()
        self._bad.copy_(~torch.isfinite(own_loss))
        if self._runtime.world_size > 1:
            self._agree()
        norm: float | Tensor | None = norm_before_step(self._engine)
        if norm is not None:
            self._doubt(norm)
        self._engine.step()
        if norm is None:
            norm = self._engine.get_global_grad_norm()
            self._doubt(norm)
        self._last = _Last(step=step, batches=batches, own_loss=own_loss)
        if self._arrived is None:
            self.settle()
        else:
            self._known.copy_(self._bad, non_blocking=True)
            self._arrived.record()
        return norm

    def settle(self) -> None:
        """Learn what became of the last step and draw the consequences; collective if it was bad."""
        last, self._last = self._last, None
        if last is None:
            return
        if self._arrived is not None:
            self._arrived.synchronize()
        if not self._known:
            self._streak = 0
            self._on_good(last.step)
            return
        self._streak += 1
        text = self._diagnose(last.step, last.batches, own_loss_is_bad=not math.isfinite(float(last.own_loss)))
        self._on_bad(last.step, text)
        line = f"step {last.step}: not finite: {text}"
        if self._streak > self._most_skipped:
            before = f", after {self._streak - 1} that were skipped" if self._streak > 1 else ""
            self._end(f"{line}; the run ends here{before}, and without a checkpoint since")
        say(self._runtime, f"{line}; the step was skipped ({self._streak} of {self._most_skipped})")

    def may_save(self, step: int) -> bool:
        """Whether a checkpoint may be published now: not between a bad step and the next good one."""
        self.settle()
        self.owes_save = self._streak > 0
        if self.owes_save:
            say(self._runtime, f"step {step}: no checkpoint before the next step that is finite")
        return not self.owes_save

    def finish(self) -> None:
        """Settle the last step of the run, which must not be a bad one."""
        self.settle()
        if self._streak:
            self._end("the last step was not finite, so it has no checkpoint")

    def _end(self, message: str) -> None:
        if self._runtime.rank == 0:
            raise NonFiniteError(message)
        raise PeerFailedError(message, NonFiniteError.exit_code)

    def _agree(self) -> None:
        flag = self._bad.to(self._runtime.device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        self._bad.copy_(flag)

    def _doubt(self, norm: float | Tensor) -> None:
        bad = ~torch.isfinite(torch.as_tensor(norm, device=self._bad.device))
        self._bad.copy_(torch.maximum(self._bad, bad.float()))

    def _look_at_norm(self) -> None:
        # ZeRO knows the norm just before its first update. DeepSpeed refuses some norms by itself; which ones depends
        # on stage, precision and version.
        norm = getattr(self._engine.optimizer, "_global_grad_norm", None)
        if norm is not None:
            self._doubt(norm)


def _device_of(optimizer: torch.optim.Optimizer) -> torch.device:
    return next(iter(optimizer.state)).device if optimizer.state else optimizer.param_groups[0]["params"][0].device
