"""Features of a tiny run on a few files: what they are, that they can be continued, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from s4d.analysis.extract import job
from s4d.analysis.extract.job import Extraction, extract
from s4d.analysis.extract.samples import read_groups
from s4d.cli import main
from s4d.config import Config, load
from s4d.data.evaluation import build_evaluation
from s4d.data.manifest_io import read_manifest, write_manifest
from s4d.errors import DataError, UsageError
from s4d.inference.model import recipes_of
from s4d.models.folder import write_folder
from s4d.models.trained import load_trained
from s4d.tasks import build_task

CPU = torch.device("cpu")


def write_media(root: Path) -> None:
    """Seven stills and five folders of six frames, of random pixels, with their manifests."""
    rng = np.random.default_rng(0)
    for name, count, kind in (("stills", 7, "image"), ("clips", 5, "frames")):
        lines = ["sample_id,path,label,split,kind"]
        for number in range(count):
            path = f"{name}/{number:03d}" + (".jpg" if kind == "image" else "")
            files = [root / path] if kind == "image" else [root / path / f"{frame}.png" for frame in range(6)]
            for file in files:
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file)
            split = "test" if number < 3 else "train"
            lines.append(f"{name}{number},{path},{('happy', 'sad', 'fear')[number % 3]},{split},{kind}")
        (root / f"{name}.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run on them, with two views of a clip."""
    write_media(tmp_path)
    sources = [
        {"name": "stills", "modality": "image", "manifest": str(tmp_path / "stills.csv")},
        {"name": "clips", "modality": "video", "manifest": str(tmp_path / "clips.csv"), "stride": 1},
    ]
    size = {"embed_dim": 32, "depth": 2, "num_heads": 1, "image_size": 32, "num_frames": 4}
    config = Config.model_validate(
        {
            "name": "tiny",
            "run_dir": str(tmp_path / "run"),
            "task": "finetune",
            "model": {"size": "tiny", **size, "moae": {"num_experts": 4, "top_k": 2}},
            "data": {"sources": sources, "workers": 0},
            "batch": {"per_step": {"stills": 2, "clips": 2}},
            "optim": {"lr": 1e-3},
            "engine": {"steps": 1, "precision": "fp32"},
            "evaluation": {"temporal_views": 2},
        }
    )
    task = build_task(config, rank=0, world_size=1, device=CPU)
    write_folder(tmp_path / "run", task.module.state_dict(), task.describe())
    (tmp_path / "run/config.yaml").write_text(config.model_dump_json())
    return tmp_path / "run"


@pytest.fixture
def wanted(run: Path, tmp_path: Path) -> Extraction:
    data = (tmp_path / "stills.csv", tmp_path / "clips.csv")
    return Extraction(model=run, data=data, out=tmp_path / "out", shard=3, workers=0)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def read(out: Path) -> dict[str, np.ndarray]:
    """Features by sample id, from all files of a folder."""
    found: dict[str, np.ndarray] = {}
    for entry in json.loads((out / "index.json").read_text())["files"]:
        with np.load(out / entry["file"]) as file:
            assert len(file["labels"]) == len(file["sample_ids"]) == len(file["features"]) == entry["samples"]
            found.update(zip(file["sample_ids"].tolist(), file["features"], strict=True))
    return found


def test_pooled_features_are_those_of_the_evaluation(run: Path, wanted: Extraction) -> None:
    index = extract(wanted, device="cpu")
    assert [entry["samples"] for entry in index["files"]] == [3, 3, 1, 3, 2]
    found, module = read(wanted.out), load_trained(run, device="cpu").module
    config = load(run / "config.yaml")
    compared = 0
    for name, split in (("stills", "test"), ("stills", "train"), ("clips", "test"), ("clips", "train")):
        for item in build_evaluation(config, split, name, 0, 1):
            with torch.no_grad():
                features = module(item.batch).features.numpy()
            for sample in set(item.sample_ids):
                rows = [place for place, other in enumerate(item.sample_ids) if other == sample]
                assert len(rows) == (2 if name == "clips" else 1)
                np.testing.assert_allclose(found[sample], features[rows].mean(0), rtol=2e-5, atol=2e-6)
                compared += 1
    assert compared == len(found) == 12


def test_tokens_of_one_view_make_its_pooled_features(run: Path, wanted: Extraction) -> None:
    extract(replace(wanted, kind="tokens"), device="cpu")
    tokens = read(wanted.out)
    trained = load_trained(run, device="cpu")
    shapes = {(trained.arch.tokens(modality), 32) for modality in ("image", "video")}
    assert {values.shape for values in tokens.values()} == shapes
    pooled = replace(wanted, out=wanted.out.with_name("pooled"))
    extract(pooled, device="cpu")
    stills = [row.sample_id for row in read_manifest(wanted.data[0]).rows]
    with torch.no_grad():
        means = trained.module.fc_norm(torch.from_numpy(np.stack([tokens[name].mean(0) for name in stills])))
    np.testing.assert_allclose(means.numpy(), [read(pooled.out)[name] for name in stills], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("file_format", ["npz", "parquet"])
def test_a_call_that_was_cut_short_is_continued_to_the_same_bytes(
    wanted: Extraction, file_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = replace(wanted, file_format=file_format, dtype="float16")
    whole = replace(wanted, out=wanted.out.with_name("whole"))
    extract(whole, device="cpu")
    real, left = job.features_of, 3

    def features_of(*values: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return real(*values)

    monkeypatch.setattr(job, "features_of", features_of)
    with pytest.raises(KeyboardInterrupt):
        extract(wanted, device="cpu")
    assert json.loads((wanted.out / "index.json").read_text())["complete"] is False
    assert len(contents(wanted.out)) == 4
    # A file that was damaged in the meantime is written again; half a file of a killed process is swept away.
    first = wanted.out / f"features-00000.{file_format}"
    content = bytearray(first.read_bytes())
    content[len(content) // 3] ^= 255
    first.write_bytes(content)
    (wanted.out / f".features-00003.{file_format}.17.tmp").write_bytes(b"half")
    left = 100
    extract(wanted, device="cpu")
    assert contents(wanted.out) == contents(whole.out)
    # Both files of clips are one forward each, and of the stills two of three had been written, one damaged since.
    assert left == 100 - 3


def test_parquet_holds_the_same(wanted: Extraction) -> None:
    extract(wanted, device="cpu")
    table = replace(wanted, out=wanted.out.with_name("table"), file_format="parquet")
    extract(table, device="cpu")
    expected = read(wanted.out)
    for path in sorted(table.out.glob("*.parquet")):
        rows = pyarrow.parquet.read_table(path)
        for sample, features in zip(rows["sample_id"].to_pylist(), rows["features"].to_pylist(), strict=True):
            assert np.array_equal(np.float32(features), expected.pop(sample))
    assert not expected


def test_labels_are_names_and_may_be_absent(wanted: Extraction, tmp_path: Path) -> None:
    manifest = read_manifest(tmp_path / "clips.csv")
    rows = tuple(replace(row, label=None if number else "happy") for number, row in enumerate(manifest.rows))
    write_manifest(replace(manifest, rows=rows), tmp_path / "half.csv")
    extract(replace(wanted, data=(tmp_path / "half.csv",)), device="cpu")
    with np.load(wanted.out / "features-00000.npz") as file:
        assert file["labels"].tolist() == ["happy", "", ""]


def test_a_sample_of_several_folds_is_there_once(wanted: Extraction, tmp_path: Path) -> None:
    manifest = read_manifest(tmp_path / "clips.csv")
    rows = tuple(
        replace(row, fold=fold, split=split) for fold, split in ((1, "train"), (2, "test")) for row in manifest.rows
    )
    write_manifest(replace(manifest, rows=rows), tmp_path / "folds.csv")
    index = extract(replace(wanted, data=(tmp_path / "folds.csv",)), device="cpu")
    assert [entry["samples"] for entry in index["files"]] == [3, 2]


def test_heads_that_look_differently_are_chosen_between(wanted: Extraction, run: Path) -> None:
    trained = load_trained(run, device="cpu")
    recipes = recipes_of(trained)
    other = {**recipes, "films": replace(recipes["clips"], stride=2)}
    with pytest.raises(UsageError, match="--head: clips, films take video samples in different ways"):
        read_groups([str(path) for path in wanted.data], trained, other, None)
    groups = read_groups([str(path) for path in wanted.data], trained, other, "films")
    assert [(group.modality, group.recipe.stride) for group in groups] == [("image", 1), ("video", 2)]
    with pytest.raises(
        DataError, match=r"stills\.csv: sample 'stills0': is of modality image, for which .* has no head"
    ):
        read_groups([str(wanted.data[0])], trained, {"clips": recipes["clips"]}, None)


def test_the_command_reads_a_configuration_and_leaves_out_what_is_unreadable(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "stills/004.jpg").write_bytes(b"")
    out = tmp_path / "out"
    command = ["extract", str(run), "--data", str(run / "config.yaml"), "--out", str(out), "--shard", "4"]
    command += ["--workers", "0"]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "004.jpg: cannot decode: the file is empty" in error
    assert main([*command, "--on-error", "skip", "--json"]) == 0
    index = json.loads(capsys.readouterr().out)
    assert [entry["samples"] for entry in index["files"]] == [4, 2, 4, 1]
    assert ["004.jpg" in line for entry in index["files"] for line in entry["unreadable"]] == [True]
    assert len(read(out)) == 11
    assert main([*command, "--on-error", "skip"]) == 0
    assert "samples: 11, files: 4, left out: 1" in capsys.readouterr().out
    assert main([*command, "--workers", "0"]) == 1, (
        "the file that lacks a sample does not do for a call that leaves out none"
    )


def test_what_is_refused(wanted: Extraction, run: Path, tmp_path: Path) -> None:
    extract(wanted, device="cpu")
    with pytest.raises(UsageError, match=r"index\.json: kind: the folder holds other features"):
        extract(replace(wanted, kind="tokens"), device="cpu")
    with pytest.raises(UsageError, match=r"is not empty and has no index\.json"):
        extract(replace(wanted, out=tmp_path), device="cpu")
    elsewhere = replace(wanted, out=tmp_path / "new")
    with pytest.raises(UsageError, match=r"--head sound: the model has no such head \(heads: stills, clips\)"):
        extract(replace(elsewhere, head="sound"), device="cpu")
    with pytest.raises(DataError, match=r"nowhere\.csv: no such manifest"):
        extract(replace(elsewhere, data=(tmp_path / "nowhere.csv",)), device="cpu")
    with pytest.raises(DataError, match="no such run"):
        extract(replace(elsewhere, model=tmp_path / "nothing"), device="cpu")
    (wanted.out / "index.json").write_text("{")
    with pytest.raises(DataError, match=r"index\.json: not readable as JSON"):
        extract(wanted, device="cpu")
    assert not elsewhere.out.exists()


@pytest.mark.deep
def test_a_killed_command_is_continued_to_the_same_bytes(run: Path, tmp_path: Path) -> None:
    code = "import sys; from s4d.cli import main; sys.exit(main())"
    data = ["--data", str(tmp_path / "stills.csv"), "--data", str(tmp_path / "clips.csv"), "--shard", "1"]

    def command(name: str) -> list[str]:
        return [sys.executable, "-c", code, "extract", str(run), *data, "--out", str(tmp_path / name)]

    subprocess.run(command("whole"), check=True, timeout=120)
    for wanted in (1, 4, 9):
        process = subprocess.Popen(command("killed"))
        while process.poll() is None and len(list((tmp_path / "killed").glob("features-*"))) < wanted:
            time.sleep(0.002)
        process.kill()
        process.wait(timeout=60)
    subprocess.run(command("killed"), check=True, timeout=120)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert len(contents(tmp_path / "whole")) == 13
