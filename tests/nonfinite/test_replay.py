"""`s4d replay`: a kept step is computed again by one process, without the run's data, and says what training said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import row_nonfinite
from poison import Case

from s4d.cli import main

pytestmark = pytest.mark.launch


@pytest.fixture(scope="module")
def dumps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """What two ranks kept of a bad input, a bad weight and a bad activation, the run's media gone since."""
    folder = tmp_path_factory.mktemp("replay")
    row_nonfinite.prepare(folder)
    kept = {}
    for place, task, stage in (("input", "finetune", 1), ("weight", "finetune", 3), ("activation", "pretrain", 0)):
        case = Case(task=task, place=place, value="nan", rank=1, stage=stage, precision="fp32", bad_steps=2)
        reports = row_nonfinite.tried(case)
        assert reports[0]["outcome"].startswith("NonFiniteError 5"), reports
        kept[place] = folder / "kept" / place
        shutil.copytree(folder / "case/nonfinite/step-00000003-rank1", kept[place])
    row_nonfinite.close()
    shutil.rmtree(folder / "stills")
    shutil.rmtree(folder / "clips")
    (folder / "stills.csv").unlink()
    yield kept


@pytest.mark.parametrize("place", ["input", "weight"])
def test_what_is_in_the_dump_is_found_again(
    dumps: dict[str, Path], place: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", str(dumps[place])]) == 5
    training, again = capfd.readouterr().out.splitlines()
    assert training.replace("in training: ", "") == again.replace("again: ", "")


def test_what_the_machine_did_is_not(dumps: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    # The activation was spoiled from outside, as a fault of the machine or of a kernel would do.
    assert main(["replay", str(dumps["activation"]), "engine.backends.attention=reference"]) == 0
    training, again = capfd.readouterr().out.splitlines()
    assert "output of encoder.blocks.1.attn" in training
    assert again == "again: step 3: rank 1: every tensor is finite"


def test_a_folder_that_is_no_dump_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "step.json").write_text(json.dumps({"format": 0}))
    assert main(["replay", str(tmp_path)]) == 1
    error: Any = capfd.readouterr().err.splitlines()
    assert len(error) == 1 and "step.json" in error[0]
