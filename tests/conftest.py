"""Settings and fixtures of the whole suite: one thread, GPU gate, RNG hygiene, poisoned scratch memory."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator

# Several test processes share few cores; set before anything loads OpenMP.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch

# Triton decides when a kernel is defined; without a GPU its kernels are tested in the interpreter.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

torch.set_num_threads(1)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Commands print lines unbroken, since tests look for words in them; pytest itself keeps the terminal's width."""
    if config.pluginmanager.hasplugin("terminalreporter"):
        terminal = config.get_terminal_writer()
        terminal.fullwidth = terminal.fullwidth
    os.environ["COLUMNS"] = "1000"


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is None or torch.cuda.is_available():
        return
    if os.environ.get("S4D_REQUIRE_GPU") == "1":
        pytest.fail("S4D_REQUIRE_GPU=1 promises a CUDA device, but torch finds none")
    pytest.skip("no CUDA device")


@pytest.fixture(autouse=True)
def rng_state() -> Iterator[None]:
    """Every test starts from the same seeds and leaves the global generators as it found them."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


@pytest.fixture
def poisoned_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill uninitialised memory with NaN (the largest value for integers), so that reading it shows."""

    def poisoned(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def empty(*args: object, **kwargs: object) -> torch.Tensor:
            tensor = make(*args, **kwargs)
            if tensor.dtype == torch.bool:
                return tensor.fill_(True)
            return tensor.fill_(float("nan") if tensor.is_floating_point() else torch.iinfo(tensor.dtype).max)

        return empty

    monkeypatch.setattr(torch, "empty", poisoned(torch.empty))
    monkeypatch.setattr(torch, "empty_like", poisoned(torch.empty_like))
    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned(torch.Tensor.new_empty))
