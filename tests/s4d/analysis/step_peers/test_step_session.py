"""A run of the step benchmark: what is checked before it is timed, and where what fails ends up."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kernels.bench.records import AbsentError
from s4d.analysis.bench_step import CASES, StepCase, StepShape, step_flops
from s4d.analysis.step_peers import compile_sdpa, equality, session
from s4d.analysis.step_peers.ours import LossModel, bare
from s4d.analysis.step_peers.release_eager import release_model
from s4d.analysis.step_peers.release_step import release_eager
from s4d.analysis.step_peers.session import StepFindings, StepOptions, run_case, time_in_turns
from s4d.analysis.step_peers.side import Side, StepPeer, Trial, build_trial
from s4d.analysis.step_peers.table import PEERS
from s4d.models.build import build_pretrain

CPU = torch.device("cpu")
HALF = {"cpu": ("bf16",)}
TINY = CASES["tiny"]


def run(*peers: StepPeer, repeats: int = 1) -> StepFindings:
    findings = StepFindings()
    run_case(TINY, peers, StepOptions(device=CPU, repeats=repeats), findings, lambda case, peer, precision: 1000)
    return findings


@pytest.fixture
def spoilt(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One bias of the released pattern is wrong by 0.05."""

    def wrong(ours: Any) -> Any:
        model = release_model(ours)
        with torch.no_grad():
            model.get_parameter("decoder.blocks.0.mlp.fc2.bias")[0] += 0.05
        return model

    monkeypatch.setattr(equality, "release_model", wrong)
    yield


def test_a_side_that_computes_something_else_is_not_timed(spoilt: None) -> None:
    findings = run(*(peer for peer in PEERS if peer.name in ("bare", "release-eager")))
    assert [row["peer"] for row in findings.rows] == ["bare"] and not findings.comparisons
    assert [(each["peer"], each["dtype"]) for each in findings.failures] == [
        ("release-eager", "bf16"),
        ("release-eager", "fp32"),
    ]
    assert "differs by" in findings.failures[0]["reason"]


def stub(loss: float, **values: Any) -> StepPeer:
    """A side that does nothing and states a loss."""
    side = Side(step=lambda: None, loss=lambda: loss)
    return StepPeer(**{"name": "stub", "precisions": HALF, "build": lambda trial, precision: side, **values})


def test_a_timed_side_must_show_our_loss_in_its_own_precision() -> None:
    expected = equality.float32_loss(build_trial(TINY, CPU))
    assert not run(stub(expected * 1.009)).failures
    for wrong in (expected * 1.02, float("nan")):
        findings = run(stub(wrong, ours=True))
        assert not findings.rows and findings.failures[0]["reason"].startswith("WrongLossError")


def broken(error: Exception) -> Any:
    def build(trial: Trial, precision: str) -> Side:
        raise error

    return build


def test_what_cannot_run_is_absent_and_what_breaks_of_ours_is_a_failure() -> None:
    findings = run(
        stub(0.0, name="other", build=broken(MemoryError("no room"))),
        stub(0.0, name="compiler", build=broken(AbsentError("no compiler"))),
        stub(0.0, name="own", build=broken(ValueError("a defect")), ours=True),
    )
    assert {each["peer"]: each["reason"] for each in findings.absent} == {
        "other": "MemoryError: no room",
        "compiler": "no compiler",
    }
    assert [each["peer"] for each in findings.failures] == ["own"]


def test_a_case_may_be_none_for_a_side() -> None:
    findings = run(stub(0.0, refuse=lambda trial: f"not {trial.case.name}", build=broken(ValueError("not reached"))))
    assert [(each["peer"], each["reason"]) for each in findings.absent] == [("stub", "not tiny")]
    dense = next(peer for peer in PEERS if peer.name == "compile-dense")
    assert "no experts" in str(dense.refuse(build_trial(TINY, CPU)))
    assert "only a GPU" in str(dense.refuse(build_trial(CASES["tiny_finetune"], CPU)))


def test_kept_weights_are_the_same_in_every_model() -> None:
    """As on a GPU, where making them anew would take longer than a benchmark."""
    for case in (TINY, CASES["tiny_finetune"]):
        made, kept = build_trial(case, CPU), build_trial(case, CPU, keep=True)
        first = kept.model()
        with torch.no_grad():
            next(first.parameters()).zero_()
        assert equality.compare(
            equality.of_ours(LossModel(made.model()).train(), made.batch),
            equality.of_ours(LossModel(kept.model()).train(), kept.batch),
        ).losses == dict.fromkeys(("image", "video"), 0.0)


def test_rows_state_rates_and_memory() -> None:
    expected = equality.float32_loss(build_trial(TINY, CPU))
    (row,) = run(stub(expected), repeats=3).rows
    assert len(row["seconds"]) == 3 and row["peak_bytes"] == 1000
    assert row["clips_per_second"] == pytest.approx(1e3 / row["median_ms"])
    assert row["flops"] == step_flops(TINY.shape) > 1e6


def test_sides_take_turns_and_the_first_place_goes_round() -> None:
    order: list[str] = []
    steps = {(name, "bf16"): (lambda name=name: order.append(name)) for name in "abc"}
    seconds = time_in_turns(steps, 3, CPU)
    assert "".join(order) == "abcbcacab" and {len(each) for each in seconds.values()} == {3}


def test_ours_run_beside_the_named_ones() -> None:
    def names(*patterns: str) -> list[str]:
        return [peer.name for peer in StepOptions(device=CPU, peers=patterns).wanted_peers(PEERS)]

    assert names("release-eager") == ["bare", "release-eager"]
    assert names("bare") == ["bare"]
    assert names("compile-*") == ["bare", "compile-sdpa", "compile-dense"]
    assert len(names()) == len(PEERS)
    assert [case.name for case in StepOptions(device=CPU).wanted_cases()] == ["pretrain_8_clips", "finetune_4_clips"]


def test_all_sides_train() -> None:
    """Steps change the weights the way AdamW does: the loss on the same batch falls on both sides alike."""
    trial = build_trial(TINY, CPU)
    found = {}
    for name, side in (("bare", bare(trial, "fp32")), ("release", release_eager(trial, "fp32"))):
        losses = [side.loss()]
        for _ in range(3):
            side.step()
            losses.append(side.loss())
        found[name] = losses
    # The release takes a step for each modality where ours takes one, so it comes further.
    assert found["bare"][0] > found["bare"][1] > found["bare"][2]
    assert found["release"][0] == pytest.approx(found["bare"][0], rel=1e-5)
    assert found["release"][-1] < found["release"][0]


def test_half_precision_keeps_float32_weights_for_the_update() -> None:
    """A step smaller than bfloat16 resolves still adds up in the weights that AdamW holds."""
    trial = build_trial(TINY, CPU)
    model = LossModel(trial.model()).train()
    from s4d.analysis.step_peers.ours import BareLoop

    loop = BareLoop(model, list(model.parameters()), trial.batch, "bf16")
    before = [master.detach().clone() for master in loop.masters]
    loop.step()
    assert all(weight.dtype == torch.bfloat16 for weight in model.parameters())
    assert all(master.dtype == torch.float32 for master in loop.masters)
    moved = [not torch.equal(old, new) for old, new in zip(before, loop.masters, strict=True)]
    assert all(moved)
    assert torch.equal(loop.weights[0], loop.masters[0].to(torch.bfloat16))


def test_a_compiler_that_fails_is_absent_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(model: Any, **options: Any) -> Any:
        def call(batch: Any) -> Any:
            raise RuntimeError("\n  no C++ compiler here\nmore")

        return call

    monkeypatch.setattr(torch, "compile", failing)
    with pytest.raises(AbsentError, match=r"^torch\.compile: RuntimeError: no C\+\+ compiler here$"):
        compile_sdpa.compile_sdpa(build_trial(TINY, CPU), "bf16")


@pytest.mark.deep
def test_the_compiled_model_is_ours() -> None:
    """A model of two blocks, since compiling takes minutes for twelve: no graph breaks, the same loss, falling."""
    trial = build_trial(TINY, CPU)
    arch = dataclasses.replace(TINY.shape.architecture(), depth=1, decoder_depth=1)
    short: Any = SimpleNamespace(
        batch=trial.batch, device=CPU, model=lambda backends=None: build_pretrain(arch, 0, backends)
    )
    side = compile_sdpa.compile_sdpa(short, "fp32")
    first = side.loss()
    assert first == pytest.approx(bare(short, "fp32").loss(), rel=1e-5)
    assert side.notes == {"graph_breaks": 0}
    side.step()
    assert side.loss() < first


def test_work_of_a_packed_step_is_that_of_its_parts() -> None:
    def flops(images: int, clips: int) -> float:
        return step_flops(StepShape(task="pretrain", size="base", images=images, clips=clips))

    assert flops(3, 2) == pytest.approx(3 * flops(1, 0) + 2 * flops(0, 1))
    # GFLOP of one ViT-B clip and image, as derived by hand.
    assert flops(0, 1) == pytest.approx(71.28e9, rel=0.01) and flops(1, 0) == pytest.approx(9.95e9, rel=0.05)


def test_cases_have_unique_shapes() -> None:
    assert len({dataclasses.astuple(case.shape) for case in CASES.values()}) == len(CASES)
    assert all(isinstance(case, StepCase) and case.name == name for name, case in CASES.items())
    assert session.CUDA_REPEATS >= 10


def test_no_token_is_left_in_a_tie_between_experts(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = build_trial(CASES["tiny_finetune"], CPU)
    pretrained = build_trial(TINY, CPU)
    assert equality.without_ties(pretrained) is pretrained

    def gap(found: Trial) -> float:
        routing = found.model().train()(found.batch).routing
        best = [terms.router_logits.detach().topk(terms.expert_ids.shape[1] + 1, dim=1).values for terms in routing]
        return min(float((each[:, -2] - each[:, -1]).min()) for each in best)

    # Wide enough that the first draw has ties and a later one has none.
    monkeypatch.setattr(equality, "TIE", 2 * gap(trial))
    found = equality.without_ties(trial)
    assert gap(found) > 2 * gap(trial) and not torch.equal(found.batch.noise_keys, trial.batch.noise_keys)
