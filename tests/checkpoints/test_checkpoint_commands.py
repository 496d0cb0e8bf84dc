"""`s4d checkpoint inspect|verify|consolidate` on the checkpoints of a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_run import SmallRun

from s4d.cli import main


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three checkpoints, of which the first has the best score and is followed by one that is dropped."""
    root = tmp_path_factory.mktemp("commands") / "run"
    run = SmallRun(root, width=4, keep_last=1, keep_best="clips.uar")
    for score in (0.9, 0.5, 0.9):
        run.advance()
        run.checkpoints.scored(run.step, {"clips.uar": score})
        run.save()
    run.checkpoints.wait()
    return root


@pytest.fixture
def copied(run_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run_dir, tmp_path / "run"))


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed, wherever its lines are broken."""
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).split())


def test_inspect_shows_where_a_run_stands(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "inspect", str(run_dir), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["step"] == 3 and document["counters"] == {"data/read": 3}
    assert document["scores"] == {"clips.uar": 0.9}
    # Of equal scores the older one stays the best.
    assert (document["kept"], document["latest"], document["best"]) == ([3, 1], "step-00000003", "step-00000001")
    assert all(len(known["sha256"]) == 64 for known in document["tensors"].values())
    assert main(["checkpoint", "inspect", str(run_dir)]) == 0
    assert "step: 3" in said(capsys)


def test_verify_says_what_is_damaged(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "verify", str(copied)]) == 0
    assert said(capsys).count(": intact") == 2
    newest, best = copied / "checkpoints/step-00000003", copied / "checkpoints/step-00000001"
    for name in ("ema.safetensors", "model.safetensors"):
        data = bytearray((newest / name).read_bytes())
        data[-1] ^= 1
        (newest / name).write_bytes(data)
    assert main(["checkpoint", "verify", str(copied)]) == 1
    text = said(capsys)
    assert "ema.safetensors: tensor 'second.weight': checksum differs" in text
    assert "model.safetensors: tensor 'second.weight': checksum differs" in text or "tensor 'table'" in text
    assert main(["checkpoint", "verify", str(best)]) == 0 and ": intact" in said(capsys)
    assert main(["checkpoint", "verify", str(newest), "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["checkpoints"][0]["damages"]) == 2
    (best / "state.json").unlink()
    assert main(["checkpoint", "verify", str(copied)]) == 3
    assert "state.json: unreadable: No such file" in said(capsys)


def test_verify_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "verify", str(tmp_path / "absent")]) == 1
    assert "absent: no checkpoint there" in said(capsys)


@pytest.mark.parametrize(("weights", "step"), [("last", 3), ("best", 1), ("ema", 3)])
def test_consolidate_takes_the_model_alone(
    run_dir: Path, tmp_path: Path, weights: str, step: int, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model"
    assert main(["checkpoint", "consolidate", str(run_dir), str(out), "--weights", weights]) == 0, said(capsys)
    names = ["README.md", "config.json", "manifest.json", "model.safetensors"]
    assert sorted(path.name for path in out.iterdir()) == names
    source = run_dir / f"checkpoints/step-{step:08d}"
    expected = load_file(source / "model.safetensors")
    if weights == "ema":
        expected |= load_file(source / "ema.safetensors")
    found = load_file(out / "model.safetensors")
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    assert main(["checkpoint", "consolidate", str(run_dir), str(out)]) == 1
    assert "already exists" in said(capsys)


@pytest.mark.parametrize("arguments", [["import", "missing.pt", "--out"], ["consolidate", "missing"]])
def test_a_folder_that_exists_is_noticed_before_the_work(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["checkpoint", *arguments, str(tmp_path)]) == 1
    assert f"{tmp_path}: already exists" in said(capsys)


def test_consolidate_refuses_damage_and_what_is_not_there(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = copied / "checkpoints/step-00000003"
    (newest / "optimizer.safetensors").write_bytes(b"")
    assert main(["checkpoint", "consolidate", str(copied), str(tmp_path / "out")]) == 1
    assert "optimizer.safetensors: expected" in said(capsys) and not (tmp_path / "out").exists()
    (copied / "checkpoints/best").unlink()
    assert main(["checkpoint", "consolidate", str(copied), str(tmp_path / "out"), "--weights", "best"]) == 1
    assert "checkpoints/best" in said(capsys)
    (copied / "checkpoints/best").write_text("../../elsewhere\n")
    assert main(["checkpoint", "consolidate", str(copied), str(tmp_path / "out"), "--weights", "best"]) == 1
    assert "no folder beside it" in said(capsys)
