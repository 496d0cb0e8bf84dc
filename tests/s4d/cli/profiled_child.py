"""The `s4d` command with a slow MoAE and a host wait in the MLPs of the model; started by test_profile_step.py."""

from __future__ import annotations

import sys
import time
from typing import Any

from torch import Tensor

from s4d.cli import main
from s4d.models.moae import MoaeAdapters
from s4d.models.vit import Mlp

PAUSE = 0.3


def plant() -> None:
    """Change the two forwards for this process."""
    moae, mlp = MoaeAdapters.forward, Mlp.forward

    def slow_moae(self: Any, *arguments: Any) -> Any:
        time.sleep(PAUSE)
        return moae(self, *arguments)

    def waiting_mlp(self: Any, x: Tensor) -> Tensor:
        x.detach().sum().item()
        return mlp(self, x)

    MoaeAdapters.forward = slow_moae  # type: ignore[method-assign]
    Mlp.forward = waiting_mlp  # type: ignore[method-assign]


if __name__ == "__main__":
    plant()
    sys.exit(main(sys.argv[1:]))
