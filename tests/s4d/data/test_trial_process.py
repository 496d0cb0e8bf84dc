"""A trial of a backend leaves the training process unharmed, whatever the files do to their decoder."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from s4d.config import Config
from s4d.data import backends, trial_process
from s4d.data.backends import require
from s4d.data.loader import TrainBatches
from s4d.data.plan import SamplePlan, build_plan
from s4d.data.trial import Trial
from s4d.data.trial_process import try_apart
from s4d.errors import DataError, UsageError

# What the decoder of images does in the new process, where changes to this one's modules are not seen.
HARMFUL = """
import os, signal, time
from s4d.data import decode_image
from s4d.data.trial import Trial, try_backend
from s4d.errors import DataError

def refuse(path):
    raise DataError(f"{path}: cannot decode: bad")

DEEDS = {
    "aborts": lambda path: os.abort(),
    "crashes": lambda path: os.kill(os.getpid(), signal.SIGSEGV),
    "ends": lambda path: os._exit(3),
    "hangs": lambda path: time.sleep(600),
    "takes_memory": lambda path: bytearray(5 << 30),
    "refuses": refuse,
    "fails": lambda path: {}["missing"],
}

def harmful(deed):
    def run(backend, *arguments):
        decode_image._opened = DEEDS[deed]
        return try_backend("pyav", *arguments)
    return run

aborts, crashes, ends, hangs, takes_memory, refuses, fails = map(harmful, DEEDS)
for name in DEEDS:
    globals()[name].__qualname__ = name

def idles(*arguments):
    time.sleep(600)

def breaks(*arguments):
    return {}["missing"]

def tells(backend, *arguments):
    return Trial(backend=backend, views_per_second=float(os.getpid()))
"""

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
Inject = Callable[[str], None]


@pytest.fixture
def inject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Inject:
    """Puts a function of HARMFUL in the place of the trial, and lets every backend be there."""
    (tmp_path / "harmful_trials.py").write_text(HARMFUL)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "harmful_trials", raising=False)
    module: types.ModuleType = importlib.import_module("harmful_trials")
    monkeypatch.setattr(trial_process, "refusal", lambda backend: None)
    return lambda name: monkeypatch.setattr(trial_process, "try_backend", getattr(module, name))


@pytest.fixture
def plan(finetune_config: Callable[..., Config]) -> SamplePlan:
    return build_plan(finetune_config(data={"backend": "dali"}), world_size=1)


@pytest.mark.parametrize(
    ("deed", "reason"),
    [
        ("aborts", r"decoding ended the process \(SIGABRT\)"),
        ("crashes", r"decoding ended the process \(SIGSEGV\)"),
        ("ends", r"decoding ended the process \(status 3\)"),
        ("hangs", "decoding took more than 0.5 s"),
        ("takes_memory", r"not enough memory \(.*\)"),
    ],
)
def test_a_required_backend_is_refused_with_the_file(
    deed: str, reason: str, inject: Inject, plan: SamplePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    inject(deed)
    monkeypatch.setattr(trial_process, "SECONDS_PER_FILE", 0.5 if deed == "hangs" else 30.0)
    with pytest.raises(UsageError, match=rf"^data\.backend: dali: \S+/i\d\d\.jpg: {reason}$"):
        require(plan.config, plan, 0, CPU)


def test_a_trial_that_takes_too_long_without_a_file_is_refused(
    inject: Inject, plan: SamplePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    inject("idles")
    monkeypatch.setattr(trial_process, "TRIAL_SECONDS", 0.5)
    assert try_apart("dali", plan.config, plan, 0, CPU).refusal == "the trial took more than 0.5 s"


@pytest.mark.parametrize(("deed", "line"), [("aborts", "SIGABRT"), ("breaks", "KeyError: 'missing'")])
def test_training_goes_on_with_pyav_where_every_trial_is_lost(
    deed: str,
    line: str,
    inject: Inject,
    finetune_config: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    inject(deed)
    # A trial for a machine without a GPU, of a run that asks for one.
    monkeypatch.setattr(
        backends, "try_apart", lambda name, config, plan, rank, _: try_apart(name, config, plan, rank, CPU)
    )
    monkeypatch.setattr("s4d.data.loader.uploaded", lambda built, *_: built)
    config = finetune_config(data={"workers": 1})
    batches = TrainBatches(config, build_plan(config, world_size=1), 0, GPU)
    with caplog.at_level(logging.INFO):
        assert len(next(batches.steps(0))) == config.batch.accumulation
    batches.close()
    (told,) = [record.getMessage() for record in caplog.records if "auto is" in record.getMessage()]
    assert told.startswith("data.backend: auto is pyav (pyav refused: ") and told.count(line) == len(backends.BACKENDS)
    assert "\n" not in told


def test_a_good_trial_runs_elsewhere_and_its_figures_travel(inject: Inject, plan: SamplePlan) -> None:
    inject("tells")
    found = try_apart("pyav", plan.config, plan, 0, CPU, samples=2)
    assert found == Trial(backend="pyav", views_per_second=found.views_per_second)
    assert found.views_per_second not in (0.0, float(os.getpid()))


def test_a_good_trial_reads_the_runs_own_files(plan: SamplePlan) -> None:
    found = try_apart("pyav", plan.config, plan, 0, CPU, samples=2)
    assert found.refusal is None and found.views_per_second > 0


def test_errors_of_a_trial_are_those_of_a_run(inject: Inject, plan: SamplePlan) -> None:
    inject("refuses")
    with pytest.raises(DataError, match=r"i\d\d\.jpg: cannot decode: bad$"):
        require(plan.config, plan, 0, CPU)
    inject("fails")
    with pytest.raises(DataError, match=r"i\d\d\.jpg: cannot decode: 'missing'$"):
        require(plan.config, plan, 0, CPU)
    inject("breaks")
    with pytest.raises(RuntimeError, match=r"in a trial of dali:\n(.*\n)+KeyError: 'missing'"):
        require(plan.config, plan, 0, CPU)


def test_every_backend_is_tried_in_its_own_process(inject: Inject, plan: SamplePlan) -> None:
    inject("tells")
    trials = [try_apart(backend, plan.config, plan, 0, CPU) for backend in ("pyav", "dali")]
    assert len({trial.views_per_second for trial in trials} | {float(os.getpid())}) == 3
