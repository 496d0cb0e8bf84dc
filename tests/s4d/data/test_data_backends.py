"""Which backend decodes: the configured one or none, on a GPU the fastest that works, kept by a continued run."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

import pytest
import torch

from s4d.config import Config
from s4d.data import backends, trial
from s4d.data.backends import choose, fastest, require
from s4d.data.loader import TrainBatches, build_batches
from s4d.data.plan import build_plan
from s4d.data.trial import Trial, try_backend
from s4d.errors import DataError, UsageError

MakeConfig = Callable[..., Config]
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def no_dali(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nvidia.dali", "nvidia.dali.fn"):
        monkeypatch.setitem(sys.modules, name, None)


def test_auto_on_a_cpu_is_pyav_without_a_trial(finetune_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "try_apart", lambda *_: pytest.fail("tried a backend"))
    config = finetune_config()
    assert config.data.backend == "auto"
    assert choose(config, build_plan(config, world_size=1), 0, CPU) == "pyav"


@pytest.mark.usefixtures("no_dali")
def test_a_named_backend_that_is_missing_is_refused(finetune_config: MakeConfig) -> None:
    with pytest.raises(
        UsageError, match=r"^data\.backend: dali: cannot be imported \(.+\); pip install 's4d-engine\[dali-cu13\]'"
    ):
        build_batches(finetune_config(data={"backend": "dali"}), 0, 1)


def test_a_named_backend_that_decodes_none_of_the_files_is_refused(
    finetune_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "try_apart", lambda *_: Trial(backend="dali", refusal="a.mp4: cannot decode"))
    config = finetune_config(data={"backend": "dali"})
    with pytest.raises(UsageError, match=r"^data\.backend: dali: a\.mp4: cannot decode$"):
        require(config, build_plan(config, world_size=1), 0, GPU)


def test_auto_on_a_gpu_takes_the_fastest_and_says_why(
    finetune_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    figures = {"pyav": 120.4, "dali": 950.0, "torchcodec": 80.0}
    monkeypatch.setattr(backends, "try_apart", lambda name, *_: Trial(backend=name, views_per_second=figures[name]))
    config = finetune_config()
    plan = build_plan(config, world_size=1)
    with caplog.at_level(logging.INFO):
        assert choose(config, plan, 0, GPU) == "dali"
    assert [record.getMessage() for record in caplog.records] == [
        "data.backend: auto is dali (pyav 120 views/s; dali 950 views/s; torchcodec 80 views/s)"
    ]
    figures["pyav"] = 2000.0
    assert choose(config, plan, 0, GPU) == "pyav"


def test_a_refused_backend_is_named_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        trials = [Trial(backend="dali", refusal="no NVDEC"), Trial(backend="pyav", views_per_second=3.0)]
        assert fastest(trials) == "pyav"
    assert "auto is pyav (dali refused: no NVDEC; pyav 3 views/s)" in caplog.text


def test_an_unreadable_file_does_not_end_a_trial_that_other_ranks_wait_for(
    finetune_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str, *_: object) -> Trial:
        raise DataError("a.jpg: cannot decode")

    monkeypatch.setattr(backends, "try_apart", broken)
    config = finetune_config()
    assert choose(config, build_plan(config, world_size=1), 0, GPU) == "pyav"


def test_other_ranks_take_what_the_first_has_chosen(
    finetune_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[list[str]] = []

    def broadcast(values: list[str], src: int) -> None:
        assert src == 0
        told.append(list(values))
        values[0] = "dali"

    monkeypatch.setattr(backends.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(backends.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(backends.dist, "broadcast_object_list", broadcast)
    monkeypatch.setattr(backends, "try_apart", lambda name, *_: Trial(backend=name, views_per_second=len(name)))
    config = finetune_config()
    plan = build_plan(config, world_size=2)
    assert choose(config, plan, 0, GPU) == "dali"
    monkeypatch.setattr(backends, "try_apart", lambda *_: pytest.fail("tried a backend"))
    assert choose(config, plan, 1, GPU) == "dali"
    assert told == [["torchcodec"], [""]]


def test_a_continued_run_keeps_the_choice(finetune_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = finetune_config()
    plan = build_plan(config, world_size=1)
    monkeypatch.setattr("s4d.data.loader.choose", lambda *_: "pyav")
    # There is no GPU to copy to.
    monkeypatch.setattr("s4d.data.loader.uploaded", lambda batches, *_: batches)
    first = TrainBatches(config, plan, 0, GPU)
    assert first.choices() == {}
    next(first.steps(0))
    assert first.choices() == {"data.backend": "pyav"}
    monkeypatch.setattr("s4d.data.loader.choose", lambda *_: pytest.fail("chose again"))
    again = TrainBatches(config, plan, 0, GPU)
    again.replay({"data.backend": "pyav", "attention()": "sdpa"})
    next(again.steps(0))
    assert again.choices() == first.choices()
    for batches in (first, again):
        batches.close()


@pytest.mark.usefixtures("no_dali")
def test_a_run_decoded_by_what_is_gone_is_not_continued(finetune_config: MakeConfig) -> None:
    batches = build_batches(finetune_config(), 0, 1)
    with pytest.raises(UsageError, match=r"^data\.backend: the run so far was decoded by dali: cannot be imported"):
        batches.replay({"data.backend": "dali"})


def test_a_trial_reads_the_runs_own_files(finetune_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(100))
    monkeypatch.setattr(trial.time, "perf_counter", lambda: float(next(ticks)))
    config = finetune_config(data={"workers": 3})
    found = try_backend("pyav", config, build_plan(config, world_size=1), 0, CPU, samples=2)
    # Two images and two clips in one second of one process, of which there are three.
    assert found == Trial(backend="pyav", views_per_second=12.0, read_seconds=0.25)


@pytest.mark.parametrize("workers", [0, 2])
def test_dali_is_tried_on_the_same_views(finetune_config: MakeConfig, workers: int) -> None:
    pytest.importorskip("nvidia.dali", reason="DALI is not installed: pip install 's4d-engine[dali-cu13]'")
    config = finetune_config(data={"workers": workers})
    found = try_backend("dali", config, build_plan(config, world_size=1), 0, CPU, samples=2)
    assert found.refusal is None
    assert found.views_per_second == pytest.approx(max(1, workers) / found.read_seconds)
    assert found.decode_seconds == 0


def test_dali_is_refused_where_it_decodes_no_image(
    finetune_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nvidia.dali", reason="DALI is not installed: pip install 's4d-engine[dali-cu13]'")
    from s4d.data.dali.decoder import Decoder

    config = finetune_config()
    plan = build_plan(config, world_size=1)
    monkeypatch.setattr(
        Decoder, "fill", lambda self, files, *_: {file.sample: f"{file.path}: no engine" for file in files[:-1]}
    )
    assert try_backend("dali", config, plan, 0, CPU, samples=2).refusal is not None
    monkeypatch.setattr(Decoder, "fill", lambda self, files, *_: {files[0].sample: "one is damaged"})
    assert try_backend("dali", config, plan, 0, CPU, samples=2).refusal is None
