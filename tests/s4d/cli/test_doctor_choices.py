"""The backends that `s4d doctor` names are those that a training call resolves to."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import kernels.attention
import kernels.moae
import kernels.moae.plan
import kernels.patch
import kernels.reconstruction
from kernels import backends
from kernels.moae import Experts, Router
from s4d.cli import doctor_choices
from s4d.cli.doctor_choices import PRECISIONS, Choice, cases, choose_all
from s4d.models import compiled
from s4d.models.backends import OPS

WIDTH, HEADS, EXPERTS, TOP_K = 768, 12, 8, 2
IMAGE, CLIP = 100, 800


class ResolvedError(Exception):
    """Ends a call where its backend is chosen."""


def attend(device: str, dtype: torch.dtype, length: int) -> None:
    qkv = torch.empty(length, 3, HEADS, WIDTH // HEADS, dtype=dtype, device=device)
    ends = torch.zeros(2, dtype=torch.int32, device=device)
    kernels.attention.varlen_attention(qkv, ends, length, layout=((1, length),))


def adapt(device: str, dtype: torch.dtype, tokens: int) -> None:
    def empty(*shape: int) -> Tensor:
        return torch.empty(*shape, dtype=dtype, device=device)

    hidden = WIDTH // 4
    experts = Experts(
        fc1_weight=empty(EXPERTS, hidden, WIDTH),
        fc1_bias=empty(EXPERTS, hidden),
        fc2_weight=empty(EXPERTS, WIDTH, hidden),
        fc2_bias=empty(EXPERTS, WIDTH),
    )
    router = Router(weight=empty(EXPERTS, WIDTH), bias=empty(EXPERTS))
    kernels.moae.moae(empty(tokens, WIDTH), router, experts, top_k=TOP_K)


def embed(device: str, dtype: torch.dtype) -> None:
    pixels = torch.empty(1, 2, 32, 32, 3, dtype=torch.uint8, device=device)
    weight = torch.empty(WIDTH, 3, 2, 16, 16, dtype=dtype, device=device)
    statistics = torch.ones(3, device=device)
    indices = torch.zeros(1, dtype=torch.int64, device=device)
    bias = torch.empty(WIDTH, dtype=dtype, device=device)
    kernels.patch.embed_visible(pixels, indices, weight, bias, statistics, statistics)


def reconstruct(device: str, dtype: torch.dtype) -> None:
    pixels = torch.empty(1, 2, 32, 32, 3, dtype=torch.uint8, device=device)
    head = torch.empty(2 * 16 * 16 * 3, WIDTH, dtype=dtype, device=device)
    bias = torch.empty(len(head), dtype=dtype, device=device)
    hidden = torch.empty(1, WIDTH, dtype=dtype, device=device)
    indices = torch.zeros(1, dtype=torch.int64, device=device)
    kernels.reconstruction.masked_loss(hidden, head, bias, pixels, indices)


def plan(device: str) -> None:
    kernels.moae.plan.build_plan(torch.zeros(4, TOP_K, dtype=torch.int64, device=device), EXPERTS, None)


def compute(device: str, stage: int) -> None:
    block = nn.Identity()
    compiled._TrainingForward(block, None, stage)(torch.empty(1, device=device))  # type: ignore[arg-type]


def calls(device: str) -> Iterator[tuple[str, str, Callable[[], None]]]:
    """Real calls beside the described ones: op, case, call."""
    for precision, dtype in PRECISIONS.items():
        yield "patch", precision, lambda dtype=dtype: embed(device, dtype)
        for length in (IMAGE, CLIP):
            case = f"{precision} ({length} tokens a sample)"
            yield "attention", case, lambda dtype=dtype, length=length: attend(device, dtype, length)
        for tokens in (CLIP, 16 * CLIP):
            case = f"{precision} ({tokens} tokens)"
            yield "moae", case, lambda dtype=dtype, tokens=tokens: adapt(device, dtype, tokens)
        yield "reconstruction", precision, lambda dtype=dtype: reconstruct(device, dtype)
    yield "moae_plan", "", lambda: plan(device)
    for stage in (1, 3):
        yield "blocks", f"ZeRO {stage}", lambda stage=stage: compute(device, stage)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_described_call_is_what_a_real_one_asks_for(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, list[str], dict[str, Any]]] = []

    def spy(op: str, table: dict[str, backends.Backend], requested: str | None, **facts: Any) -> None:
        asked.append((op, list(table), facts))
        raise ResolvedError

    for module in (kernels.attention, kernels.moae, kernels.moae.plan, kernels.patch, kernels.reconstruction, compiled):
        monkeypatch.setattr(module, "resolve", spy)
    described = {(op, case): (list(table), facts) for op, case, (table, facts) in cases(device)}
    real = list(calls(device))
    assert {(op, case) for op, case, _ in real} == set(described)
    for op, case, call in real:
        with FakeTensorMode(), pytest.raises(ResolvedError):
            call()
        assert asked[-1] == (op, *described[op, case])


def test_every_op_of_the_registry_has_a_choice() -> None:
    found = choose_all()
    by_op: dict[str, list[dict[str, Any]]] = {}
    for choice in found["ops"]:
        by_op.setdefault(choice["op"], []).append(choice)
    assert set(by_op) == {*OPS, "moae_plan", "decoding", "crop and resize", "optimizer"}
    for op, table in OPS.items():
        assert {choice["backend"] for choice in by_op[op]} <= set(table)
    assert list(found["ops"][0]) == list(inspect.signature(Choice).parameters)


def test_the_choice_is_that_of_resolve_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    device, _ = doctor_choices.choose_device()
    for variable in map(backends.environment_variable, OPS):
        monkeypatch.delenv(variable, raising=False)
    found = {(choice["op"], choice["case"]): choice for choice in choose_all()["ops"]}
    for op, case, (table, facts) in cases(device):
        choice = found[op, case]
        assert choice["backend"] == backends.resolve(op, table, None, **facts).name
        before = list(table)[: list(table).index(choice["backend"])]
        assert all(f"not {name} ({table[name].refuse(facts)})" in choice["why"] for name in before)
        assert before or choice["why"] == "first choice"


def test_the_library_that_is_not_there_changes_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    backends._resolved.clear()
    monkeypatch.setattr(kernels.native, "_load", lambda: (None, "is not built"))
    monkeypatch.setattr(doctor_choices, "choose_device", lambda: ("cpu", "gloo"))
    found = choose_all()["ops"]
    backends._resolved.clear()
    chosen = {(choice["op"], choice["case"]): choice for choice in found}
    assert chosen["patch", "bf16"]["backend"] == "gather"
    assert chosen["patch", "bf16"]["why"] == "not native (is not built)"
    assert chosen["moae_plan", ""]["backend"] == "portable"
    assert {choice["backend"] for choice in found if choice["op"] == "crop and resize"} == {"Pillow"}


def test_a_variable_decides_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_choices, "choose_device", lambda: ("cpu", "gloo"))
    monkeypatch.setenv("S4D_ATTENTION_BACKEND", "sdpa")
    asked = [choice for choice in choose_all()["ops"] if choice["op"] == "attention"]
    assert {(choice["backend"], choice["why"]) for choice in asked} == {("sdpa", "S4D_ATTENTION_BACKEND asks for it")}
    monkeypatch.setenv("S4D_ATTENTION_BACKEND", "nothing")
    refused = [choice for choice in choose_all()["ops"] if choice["backend"] is None]
    assert {choice["op"] for choice in refused} == {"attention"}
    assert all("S4D_ATTENTION_BACKEND" in choice["why"] and "unknown backend" in choice["why"] for choice in refused)


@pytest.mark.parametrize(("device", "files", "cached"), [("cpu", "pyav", "pyav"), ("cuda", "measured", "pyav")])
def test_decoding_is_chosen_as_a_run_does(
    device: str, files: str, cached: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {choice.case: choice for choice in doctor_choices._data(device) if choice.op == "decoding"}
    assert [found[case].backend for case in ("files", "cached frames")] == [files, cached]
    assert ("dali" in found["files"].why) == (device == "cuda")


def test_the_optimizer_is_the_one_that_is_built() -> None:
    found = {choice.case: choice for choice in doctor_choices._optimizer("cpu")}
    assert found["ZeRO 0"].backend == "WholeAdamW" and found["ZeRO 1 to 3"].backend == "AdamW"
    assert all("fused" in choice.why for choice in found.values())
