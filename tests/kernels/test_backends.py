from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from kernels import backends
from kernels.backends import Backend, Facts, chosen, environment_variable, pin, resolve


def double(x: torch.Tensor) -> torch.Tensor:
    return x * 2


def refuse_float64(facts: Facts) -> str | None:
    return "float64 is not supported" if facts["dtype"] == torch.float64 else None


def refuse_always(facts: Facts) -> str | None:
    return "needs a GPU"


TABLE = {
    "device": Backend(name="device", function="absent_package:run", refuse=refuse_always),
    "fast": Backend(name="fast", function=double, refuse=refuse_float64),
    "path": Backend(name="path", function="kernels.philox:uniform"),
}


@pytest.fixture(autouse=True)
def fresh_choices(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No choice leaks in or out."""
    before = chosen()
    monkeypatch.delenv("S4D_DOUBLE_BACKEND", raising=False)
    monkeypatch.setattr(backends, "_logged", set())
    pin({})
    yield
    pin(before)


def test_first_usable_row_wins_and_is_logged_once_with_reasons(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="kernels.backends")
    for _ in range(3):
        assert resolve("double", TABLE, None, dtype=torch.float32).name == "fast"
    assert resolve("double", TABLE, None, dtype=torch.float64).name == "path"
    assert [record.getMessage() for record in caplog.records] == [
        "double(dtype=torch.float32): backend fast (device: needs a GPU)",
        "double(dtype=torch.float64): backend path (device: needs a GPU; fast: float64 is not supported)",
    ]


def test_explicit_choice_beats_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(environment_variable("double"), "path")
    assert resolve("double", TABLE, None, dtype=torch.float32).name == "path"
    assert resolve("double", TABLE, "fast", dtype=torch.float32).name == "fast"
    assert chosen() == {}


@pytest.mark.parametrize("by_environment", [False, True])
def test_a_requested_backend_never_falls_back(monkeypatch: pytest.MonkeyPatch, by_environment: bool) -> None:
    requested: str | None = "fast"
    if by_environment:
        monkeypatch.setenv("S4D_DOUBLE_BACKEND", "fast")
        requested = None
    with pytest.raises(
        ValueError, match=r"'fast' cannot serve this call: float64 is not supported; .*device, fast, path"
    ):
        resolve("double", TABLE, requested, dtype=torch.float64)


def test_unknown_backend_names_the_valid_ones() -> None:
    with pytest.raises(ValueError, match="unknown backend 'fats'; expected one of device, fast, path"):
        resolve("double", TABLE, "fats", dtype=torch.float32)


def test_no_usable_row_gives_every_reason() -> None:
    with pytest.raises(ValueError, match=r"no backend .* device: needs a GPU; fast: float64 is not supported"):
        resolve("double", {name: TABLE[name] for name in ("device", "fast")}, None, dtype=torch.float64)


def test_choices_are_stored_and_replayed() -> None:
    resolve("double", TABLE, None, dtype=torch.float32)
    stored = chosen()
    assert stored == {"double(dtype=torch.float32)": "fast"}
    pin({"double(dtype=torch.float32)": "path"})
    assert resolve("double", TABLE, None, dtype=torch.float32).name == "path"
    assert chosen() == {"double(dtype=torch.float32)": "path"}
    assert resolve("double", TABLE, "fast", dtype=torch.float32).name == "fast"


def test_a_pinned_choice_that_refuses_raises() -> None:
    pin({"double(dtype=torch.float64)": "fast"})
    with pytest.raises(ValueError, match="'fast' cannot serve this call: float64 is not supported"):
        resolve("double", TABLE, None, dtype=torch.float64)


def test_a_path_is_imported_on_use() -> None:
    assert TABLE["path"].load()(torch.tensor([1 << 31])).item() == 0.5
    with pytest.raises(ModuleNotFoundError, match="absent_package"):
        TABLE["device"].load()
    with pytest.raises(ValueError, match=r"expected a path 'module:attribute', got 'json\.dumps'"):
        Backend(name="wrong", function="json.dumps")


def test_compiles_into_one_graph() -> None:
    def run(x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = resolve("double", TABLE, None, dtype=x.dtype).load()(x)
        return result + 1

    compiled = torch.compile(run, fullgraph=True, backend="eager")
    assert compiled(torch.ones(3)).tolist() == [3.0, 3.0, 3.0]
    assert compiled(torch.full((2,), 1 << 31)).tolist() == [(1 << 32) + 1] * 2
    assert chosen() == {"double(dtype=torch.float32)": "fast", "double(dtype=torch.int64)": "fast"}


def test_importing_the_ops_loads_no_accelerator_library() -> None:
    """torch imports triton by itself where it finds it; our kernels that need it, and xformers, wait for their use."""
    code = "import kernels.attention, kernels.moae, kernels.patch, kernels.reconstruction, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "kernels.attention.grouped" in loaded
    assert not [name for name in loaded if name.startswith(("xformers", "kernels.")) and "triton_" in name]
    assert "xformers" not in loaded
