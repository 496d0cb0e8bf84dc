"""One rank of a tiny run of DeepSpeed that saves its own checkpoints at every ZeRO stage, in fp32 and bf16.

python deepspeed_ranks.py <folder>; rank 0 leaves the true weights beside each checkpoint.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.utils import safe_get_full_fp32_param
from safetensors.torch import save_file
from torch import Tensor, nn


class Net(nn.Module):
    """Sizes that two ranks cannot share evenly, groups with and without decay, a frozen tensor and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(7, 5)
        self.second = nn.Linear(5, 3)
        self.frozen = nn.Parameter(torch.randn(3, 3), requires_grad=False)
        self.register_buffer("table", torch.arange(4.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)).square().sum() + 0 * self.frozen.sum()


def masters_without_zero(engine: Any, parameter: nn.Parameter) -> Tensor:
    """In fp32 the parameters themselves, in bf16 copies that the optimizer keeps in the same order."""
    low, high = getattr(engine.optimizer, "fp16_groups", []), getattr(engine.optimizer, "fp32_groups", [])
    copies = {
        id(mine): copy for mines, group in zip(low, high, strict=True) for mine, copy in zip(mines, group, strict=True)
    }
    return copies.get(id(parameter), parameter)


def main() -> None:
    """Train two steps and save, in each form."""
    # Compiled on first use, and a lock file that a killed process left behind would make it wait for ever.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    for stage in range(4):
        for kind in ("fp32", "bf16"):
            torch.manual_seed(stage)
            net = Net()
            frozen = net.frozen.detach().clone()
            groups = [
                {"params": [net.first.weight, net.second.weight], "weight_decay": 0.1},
                {"params": [net.first.bias, net.second.bias], "weight_decay": 0.0},
            ]
            config = {
                "train_micro_batch_size_per_gpu": 2,
                "zero_optimization": {"stage": stage},
                "zero_force_ds_cpu_optimizer": False,
                "zero_allow_untested_optimizer": True,
                "bf16": {"enabled": kind == "bf16"},
            }
            engine, *_ = deepspeed.initialize(model=net, optimizer=torch.optim.AdamW(groups, lr=0.01), config=config)
            for _ in range(2):
                x = torch.randn(2, 7, dtype=torch.bfloat16 if kind == "bf16" else torch.float32)
                engine.backward(engine(x))
                engine.step()
            folder = Path(sys.argv[1]) / f"{stage}-{kind}"
            engine.save_checkpoint(str(folder), tag="step-2")
            weights = {"frozen": frozen.to(x.dtype).to(torch.float32)}
            for name, parameter in net.named_parameters():
                if name == "frozen":
                    continue
                full = safe_get_full_fp32_param(parameter) if stage else masters_without_zero(engine, parameter)
                weights[name] = full.detach().to(torch.float32).clone()
            if engine.global_rank == 0:
                save_file(weights, folder / "expected.safetensors")
            engine.destroy()
    # A rank that leaves while another still talks to it makes that one abort.
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
