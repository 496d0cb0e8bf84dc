"""`s4d profile scaling` as a command: what it refuses, and a study of real ranks on random pixels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from s4d.cli import main

ROOT = Path(__file__).resolve().parents[3]
SMALL = [
    *("model.embed_dim=64", "model.depth=2", "model.num_heads=2", "model.image_size=32", "model.num_frames=4"),
    *("model.decoder_embed_dim=32", "model.decoder_depth=1", "model.decoder_num_heads=1"),
]
SOURCES = {"pretrain": ("affectnet", "voxceleb2"), "finetune": ("affectnet", "dfew")}


def arguments(task: str) -> list[str]:
    quotas = [f"batch.per_step.{name}=4" for name in SOURCES[task]]
    return ["profile", "scaling", "--config", str(ROOT / "configs" / task / "demo.yaml"), *SMALL, *quotas]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--ranks", "0"], "--ranks: expected whole numbers of 1 or more"),
        (["--ranks", "two"], "--ranks: expected whole numbers"),
        (["--stages", "4"], "zero_stage"),
        (["--ranks", "3"], "batch.per_step.affectnet: 4 views a step do not divide into 3 ranks"),
    ],
)
def test_mistakes_are_one_line(given: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments("pretrain"), "--synthetic", "--device", "cpu", *given]) == 2
    captured = capsys.readouterr()
    assert expected in captured.err and captured.err.count("\n") == 1


def test_without_manifests_the_file_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["data.sources.0.manifest=nowhere.csv", "--device", "cpu", "--ranks", "1"]
    assert main([*arguments("pretrain"), *given]) == 1
    assert "nowhere.csv" in capsys.readouterr().err


@pytest.mark.launch
def test_two_ranks_run_the_training_loop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "scaling.json"
    given = ["--synthetic", "--device", "cpu", "--ranks", "2", "--mode", "weak", "--steps", "1"]
    assert main([*arguments("pretrain"), *given, "--json", str(target)]) == 0
    (row,) = json.loads(target.read_text())["rows"]
    assert (row["samples"], row["efficiency"], row["against"]) == (16, 1.0, 2)
    assert row["messages"].keys() == {"all_reduce", "all_gather_into_tensor"} and row["messages_agree"]
    assert "all_gather_into_tensor" in capsys.readouterr().out


@pytest.mark.deep
@pytest.mark.launch
@pytest.mark.parametrize("task", ["pretrain", "finetune"])
def test_a_study_of_real_ranks(task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "scaling.json"
    given = ["--synthetic", "--device", "cpu", "--ranks", "1,2", "--stages", "1,3", "--mode", "both", "--steps", "2"]
    assert main([*arguments(task), *given, "--json", str(target)]) == 0
    document = json.loads(target.read_text())
    rows = document["rows"]
    assert [(row["mode"], row["stage"], row["ranks"]) for row in rows] == [
        (mode, stage, ranks) for mode in ("strong", "weak") for stage in (1, 3) for ranks in (1, 2)
    ]
    assert [row["samples"] for row in rows] == [8, 8, 8, 8, 8, 16, 8, 16]
    assert all(row["messages_agree"] and row["threads_per_rank"] >= 1 for row in rows)
    assert all(0 < row["collective_ms"] < row["step_ms"] for row in rows if row["ranks"] == 2)
    assert all(row["sent"] == 0 for row in rows if row["ranks"] == 1)
    assert (tmp_path / "scaling.png").stat().st_size > 10_000
    assert "CPU ranks share one machine" in capsys.readouterr().out
