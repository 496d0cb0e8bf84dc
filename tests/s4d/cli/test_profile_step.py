"""`s4d profile step` end to end on models of a few thousand weights, on the engine that trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from s4d.analysis.step_profile.marks import AROUND
from s4d.analysis.step_work import PARTS
from s4d.cli import main
from s4d.data.manifest import ManifestRow
from s4d.data.manifest_io import Manifest, write_manifest

ROOT = Path(__file__).resolve().parents[3]
COMMAND = "import sys; from s4d.cli import main; sys.exit(main(sys.argv[1:]))"
MODEL = {
    "size": "tiny",
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "decoder_embed_dim": 32,
    "decoder_depth": 1,
    "decoder_num_heads": 2,
    "image_size": 32,
    "num_frames": 4,
}


def write_config(folder: Path, task: str, **engine: Any) -> Path:
    """A run on two sources whose manifests need not exist."""
    values = {
        "name": f"little {task}",
        "run_dir": str(folder / "run"),
        "task": task,
        "model": MODEL,
        "data": {
            "sources": [
                {"name": "faces", "modality": "image", "manifest": str(folder / "faces.csv")},
                {"name": "clips", "modality": "video", "manifest": str(folder / "clips.csv")},
            ],
            "mask_ratio": {"image": 0.5, "video": 0.75},
            "workers": 0,
        },
        "batch": {"per_step": {"faces": 2, "clips": 2}},
        "optim": {"lr": 1e-3, "max_grad_norm": 1.0},
        "engine": {"epochs": 4, "save_every": 5, **engine},
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def write_data(folder: Path) -> None:
    """One image, and one clip as a folder of frames, under some names each."""
    rng = np.random.default_rng(0)
    (folder / "clip").mkdir()
    for name in ("face.png", *(f"clip/{number}.png" for number in range(6))):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / name)
    for source, kind, path in (("faces", "image", "face.png"), ("clips", "frames", "clip")):
        rows = tuple(
            ManifestRow(sample_id=f"{source}{number}", path=path, kind=kind, dataset="little", split="train")  # type: ignore[arg-type]
            for number in range(4)
        )
        manifest = Manifest(rows=rows, root=folder, dataset="little", classes=(), fingerprint="")
        write_manifest(manifest, folder / f"{source}.csv")


def run(*command: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-4000:] + done.stdout[-4000:]


def profile(folder: Path, config: Path, *more: str, start: tuple[str, ...] = ("-c", COMMAND)) -> dict[str, Any]:
    target = folder / "profile.json"
    wishes = ["--device", "cpu", "--steps", "2", "--quick-ceiling", "--json", str(target), *more]
    run(*start, "profile", "step", "--config", str(config), *wishes)
    document: dict[str, Any] = json.loads(target.read_text())
    return document


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Pre-training on files at ZeRO 1 in bf16, with everything that can be written."""
    folder = tmp_path_factory.mktemp("pretrain")
    write_data(folder)
    config = write_config(folder, "pretrain", zero_stage=1)
    wishes = ["--batch", "faces=4", "--html", str(folder / "page.html"), "--trace", str(folder / "trace.json")]
    return folder, profile(folder, config, *wishes)


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Fine-tuning on random pixels at ZeRO 2 in fp32, with a slow MoAE and a host wait in every MLP."""
    folder = tmp_path_factory.mktemp("finetune")
    config = write_config(folder, "finetune", zero_stage=2, precision="fp32")
    child = str(Path(__file__).with_name("profiled_child.py"))
    return profile(folder, config, "--synthetic", start=(child,))


def check_whole(document: dict[str, Any]) -> None:
    """The split is the step, and the parts are the split."""
    step, split = document["rates"]["step_seconds"], document["split"]
    assert list(split) == [*PARTS, *AROUND]
    assert sum(split.values()) == pytest.approx(step)
    for part, phases in document["parts"].items():
        assert phases["forward"]["seconds"] == split[part]
    backward = sum(phases["backward"]["seconds"] for phases in document["parts"].values())
    assert backward + document["backward_outside_seconds"] == pytest.approx(split["backward"])


def test_the_document(pretrained: tuple[Path, dict[str, Any]]) -> None:
    _, document = pretrained
    assert (document["schema"], document["kind"], document["what"]) == (1, "measurement", "step")
    run_facts, rates = document["run"], document["rates"]
    assert run_facts["per_step"] == {"faces": 4, "clips": 2} and run_facts["zero_stage"] == 1
    assert run_facts["synthetic"] is False and run_facts["backends"]
    assert run_facts["step"] == "plain (no GPU)" and run_facts["replayed_steps"] == 0
    assert rates["images_per_second"] == pytest.approx(2 * rates["clips_per_second"])
    assert rates["tokens_per_second"] == pytest.approx((4 * 4 + 2 * 8) / rates["step_seconds"])
    assert len(rates["all_steps_seconds"]) == 2
    assert {"matmul_bfloat16", "matmul_float32", "copy"} <= set(document["ceiling"])
    assert document["limits"]["flops"] == document["ceiling"]["matmul_bfloat16"]
    assert 0 < document["utilisation"]["share"] < 1
    row = document["parts"]["decoder linear"]["backward"]
    assert row["flops_per_second"] == pytest.approx(row["flops"] / row["seconds"])
    assert row["gap_seconds"] == pytest.approx(row["seconds"] - row["floor_seconds"])
    assert document["optimizer"]["floor_seconds"] > 0 and document["optimizer"]["seconds"] > 0
    assert document["memory"]["step_peak"] > 0 and document["triton_launches"] == {}
    assert min(document["launches"][phase] for phase in ("forward", "backward", "optimizer")) > 10
    assert len(document["gaps"]) == 5


def test_all_time_of_pretraining_is_told_once(pretrained: tuple[Path, dict[str, Any]]) -> None:
    _, document = pretrained
    check_whole(document)
    there = {part for part, phases in document["parts"].items() if min(p["seconds"] for p in phases.values()) > 0}
    assert there == set(PARTS) - {"moae"}
    assert document["split"]["data wait"] > 0 and document["split"]["optimizer"] > 0


def test_our_step_does_not_wait_and_deepspeeds_waits_are_named(pretrained: tuple[Path, dict[str, Any]]) -> None:
    _, document = pretrained
    syncs = document["host_syncs"]
    assert syncs["ours_in_forward_and_backward"] == 0, syncs["rows"]
    theirs = [row for row in syncs["rows"] if row["owner"] == "deepspeed"]
    assert theirs and all(row["place"].startswith("deepspeed/runtime/") for row in theirs)
    assert {row["phase"] for row in syncs["rows"]} == {"optimizer"}


def test_files_are_written_and_the_run_folder_is_not(pretrained: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = pretrained
    assert not (folder / "run").exists()
    assert "Step profile: little pretrain" in (folder / "page.html").read_text()
    names = {event["name"] for event in json.loads((folder / "trace.json").read_text())["traceEvents"]}
    assert {"s4d: step", "s4d: decoder attention", "s4d: data wait"} <= names


def test_a_slow_part_shows_there_alone(finetuned: dict[str, Any]) -> None:
    check_whole(finetuned)
    parts, step = finetuned["parts"], finetuned["rates"]["step_seconds"]
    assert parts["moae"]["forward"]["seconds"] > 0.5 * step
    others = [phases["forward"]["seconds"] for part, phases in parts.items() if part != "moae"]
    assert max(*others, *(value for name, value in finetuned["split"].items() if name in AROUND)) < 0.25 * step
    assert finetuned["gaps"][0]["part"] == "moae"
    assert all(phase["seconds"] == 0 for phase in parts["decoder linear"].values())


def test_a_planted_wait_is_found_with_its_place(finetuned: dict[str, Any]) -> None:
    syncs = finetuned["host_syncs"]
    (row,) = (row for row in syncs["rows"] if row["phase"] == "forward")
    assert (row["call"], row["count"]) == ("aten::_local_scalar_dense", 2), "one in each block"
    assert row["place"].endswith("profiled_child.py: waiting_mlp")
    assert syncs["ours_in_forward_and_backward"] == 2
    assert finetuned["run"]["synthetic"] is True


@pytest.mark.deep
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_every_stage_is_told_whole_and_waits_for_deepspeed_alone(stage: int, tmp_path: Path) -> None:
    config = write_config(tmp_path, "finetune", zero_stage=stage)
    document = profile(tmp_path, config, "--synthetic", "batch.accumulation=2")
    check_whole(document)
    there = {part for part, phases in document["parts"].items() if min(p["seconds"] for p in phases.values()) > 0}
    assert there == {part for part in PARTS if not part.startswith("decoder")}
    assert document["host_syncs"]["ours_in_forward_and_backward"] == 0, document["host_syncs"]["rows"]
    assert {row["owner"] for row in document["host_syncs"]["rows"]} <= {"deepspeed", "ours"}
    # On a CPU torch's fused update reads the scale of the gradients as a number; on a GPU its kernel does.
    allowed = ("step_guard", "engine/adamw.py: step")
    places = [row["place"] for row in document["host_syncs"]["rows"] if row["owner"] == "ours"]
    assert all(any(name in place for name in allowed) for place in places), places


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "faces.csv: no such manifest; --synthetic profiles with random pixels in its place"),
        (["--batch", "pictures=4"], "--batch: expected one of faces, clips before the =, got 'pictures=4'"),
        (["--batch", "faces=many"], "--batch: expected faces=N with a whole N of 1 or more, got 'faces=many'"),
        (["--batch", "faces"], "--batch: expected faces=N"),
        (["--memory", "m.pickle"], "--memory: a snapshot is of a GPU's memory"),
        (["--device", "tpu"], "--device: expected cuda or cpu, got 'tpu'"),
        (["batch.accumulation=3"], "batch.per_step.faces: expected a positive multiple of 3"),
        (["model.sise=base"], "model.sise"),
    ],
)
def test_wrong_usage_is_one_line(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, "pretrain")
    device = [] if "--device" in arguments else ["--device", "cpu"]
    assert main(["profile", "step", "--config", str(config), *device, *arguments]) == 2
    output = capsys.readouterr()
    assert said in output.err and output.err.count("\n") == 1 and not output.out


def test_a_missing_configuration_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "step", "--config", str(tmp_path / "none.yaml"), "--device", "cpu"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
