"""Exports, read back or run, against the model they were made of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from s4d.cli import main
from s4d.config import MoaeConfig, ModelConfig
from s4d.data.batch import PackedBatch
from s4d.errors import DataError, UsageError
from s4d.inference.packed_views import pack_views
from s4d.models.build import build_finetune
from s4d.models.export.source import Wanted, kept_if_good, open_source, random_frames, refuse_if_far
from s4d.models.export.table import EXPORTERS
from s4d.models.folder import read_config, read_tensors
from s4d.models.foreign.forms.ledger import Wishes
from s4d.models.foreign.importing import import_hf_videomae
from s4d.models.release import import_release, to_release
from s4d.models.sizes import Architecture, architecture
from s4d.models.trained import load_trained

Saved = Callable[..., Path]
ROOT = Path(__file__).resolve().parents[4]


def export(to: str, folder: Path, out: Path, **wanted: object) -> str:
    return EXPORTERS[to](open_source(folder), out, Wanted(**wanted)).compared  # type: ignore[arg-type]


def test_a_released_file_comes_back_to_the_bit(tmp_path: Path) -> None:
    moae = MoaeConfig(router_noise="always", zero_init=False)
    arch = architecture(ModelConfig(size="tiny", depth=3, moae=moae), experts=True)
    released = to_release(build_finetune(arch, {"image": 2, "video": 3}, seed=0).state_dict())
    torch.save({"model": released}, tmp_path / "released.pth")
    classes = {"image": ("a", "b"), "video": ("c", "d", "e")}
    import_release(tmp_path / "released.pth", tmp_path / "ours", classes=classes)
    export("safetensors", tmp_path / "ours", tmp_path / "back.safetensors")
    back = load_file(tmp_path / "back.safetensors")
    assert back.keys() == released.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in released.items())
    import_release(tmp_path / "back.safetensors", tmp_path / "again", classes=classes)
    again, ours = read_tensors(tmp_path / "again"), read_tensors(tmp_path / "ours")
    assert again.keys() == ours.keys() and all(torch.equal(again[name], tensor) for name, tensor in ours.items())


def test_heads_of_a_run_get_the_released_names(tmp_path: Path, saved: Saved) -> None:
    classes = {"faces": ["a", "b", "c"]}
    folder = saved(classes=classes, inputs={"faces": {"modality": "image"}})
    state = {
        name.replace("head.image", "head.faces"): t for name, t in read_tensors(folder).items() if "video" not in name
    }
    (folder / "manifest.json").unlink()
    save_file(state, folder / "model.safetensors")
    export("safetensors", folder, tmp_path / "out.safetensors")
    assert torch.equal(load_file(tmp_path / "out.safetensors")["head.image.bias"], state["head.faces.bias"])


def test_what_the_released_code_does_not_have_is_refused(tmp_path: Path, saved: Saved) -> None:
    folder = saved(experts={"shared_experts": 1})
    with pytest.raises(DataError, match=r"moae\.shared\..*the released code has nothing like it"):
        export("safetensors", folder, tmp_path / "out.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


@pytest.mark.parametrize("stage", ["finetune", "pretrain"])
def test_a_folder_for_transformers_and_back(tmp_path: Path, saved: Saved, stage: str) -> None:
    folder = saved(stage)
    export("hf-videomae", folder, tmp_path / "hf")
    config = json.loads((tmp_path / "hf/config.json").read_text())
    assert (config["layer_norm_eps"], config["num_frames"], config["image_size"]) == (1e-6, 4, 32)
    theirs = load_file(tmp_path / "hf/model.safetensors")
    ours = read_tensors(folder)
    prefix = "" if stage == "finetune" else "encoder."
    attention = "videomae.encoder.layer.1.attention.attention"
    assert torch.equal(theirs[f"{attention}.query.bias"], ours[f"{prefix}blocks.1.attn.q_bias"])
    assert torch.equal(theirs[f"{attention}.value.weight"], ours[f"{prefix}blocks.1.attn.qkv.weight"].chunk(3)[2])
    assert f"{attention}.key.bias" not in theirs
    if stage == "finetune":
        assert config["id2label"] == {"0": "sore", "1": "glad", "2": "calm", "3": "cold"}
        assert torch.equal(theirs["classifier.bias"], ours["head.video.bias"])


def test_experts_have_no_place_in_transformers(tmp_path: Path, saved: Saved) -> None:
    with pytest.raises(UsageError, match="has adapter experts in blocks 1 to 2, which transformers"):
        export("hf-videomae", saved(experts={}), tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def logits_here(folder: Path, head: str, frames: torch.Tensor) -> torch.Tensor:
    trained = load_trained(folder, device="cpu")
    modality = trained.modalities[head]
    batch: PackedBatch = pack_views(
        list(frames.numpy()), [0] * len(frames), modality=modality, arch=trained.arch, seed=0
    )
    with torch.inference_mode():
        logits: torch.Tensor = trained.module(batch).logits[head]
    return logits


@pytest.mark.parametrize(
    ("head", "experts", "batch"),
    [
        ("video", {}, 2),
        pytest.param("image", {}, 1, marks=pytest.mark.deep),
        pytest.param("video", {"capacity_factor": 0.5, "router_noise": "off"}, 1, marks=pytest.mark.deep),
    ],
    ids=["clips", "images", "experts with a capacity"],
)
def test_a_program_gives_the_logits(
    tmp_path: Path, saved: Saved, head: str, experts: dict[str, object], batch: int
) -> None:
    folder = saved(experts=experts)
    arch: Architecture = open_source(folder).arch
    export("torch-export", folder, tmp_path / "model.pt2", head=head, batch=batch)
    program = torch.export.load(tmp_path / "model.pt2")
    assert not [node for node in program.graph.nodes if "s4d" in str(node.target)]
    frames = random_frames(arch, head, batch, seed=77)
    with torch.inference_mode():
        found = program.module()(frames)
    torch.testing.assert_close(found, logits_here(folder, head, frames), rtol=1e-4, atol=1e-5)


@pytest.mark.deep
def test_a_pretrained_encoder_as_a_program(tmp_path: Path, saved: Saved) -> None:
    folder = saved("pretrain")
    assert "tokens for 2 inputs of 1 x 1 x 32 x 32 x 3" in export(
        "torch-export", folder, tmp_path / "model.pt2", modality="image"
    )


def test_an_export_that_differs_is_not_kept(tmp_path: Path) -> None:
    values = torch.ones(3)
    with pytest.raises(DataError, match=r"not kept: logits differ by 0\.2"), kept_if_good(tmp_path / "file") as aside:
        aside.write_bytes(b"x")
        refuse_if_far(tmp_path / "file", {"logits": (values * 1.2, values)}, 1e-4)
    with pytest.raises(DataError, match="differ by nan"):
        refuse_if_far(tmp_path / "file", {"logits": (values * float("nan"), values)}, 1e-4)
    assert not list(tmp_path.iterdir())


# Written by code of libraries that may fail in ways of its own.
FULL_DISK = """
import resource, sys
from s4d.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("to", ["safetensors", "hf-videomae", pytest.param("torch-export", marks=pytest.mark.deep)])
def test_a_disk_that_takes_no_more(tmp_path: Path, saved: Saved, to: str) -> None:
    folder = saved("pretrain")
    command = [sys.executable, "-c", FULL_DISK, "checkpoint", "export", str(folder), "--to", to]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--out", str(tmp_path / "out")], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (1, f"s4d: error: {tmp_path / 'out'}: cannot write: File too large\n")
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


@pytest.mark.parametrize(
    ("stage", "arguments", "words"),
    [
        ("finetune", ("safetensors", "--head", "image"), "--head: --to safetensors has no use for it"),
        ("finetune", ("torch-export", "--check-with", "python"), "--check-with: --to torch-export has no use"),
        ("finetune", ("hf-videomae", "--batch", "2"), "--batch: --to hf-videomae has no use"),
        ("pretrain", ("torch-export", "--head", "video"), "--head 'video': expected one of none"),
    ],
)
def test_no_option_is_ignored(
    tmp_path: Path,
    saved: Saved,
    stage: str,
    arguments: tuple[str, ...],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["checkpoint", "export", str(saved(stage)), "--out", str(tmp_path / "out"), "--to", *arguments]
    assert main(command) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_an_exported_head_has_its_own_scores_alone(tmp_path: Path, saved: Saved) -> None:
    scores = {"uar": 0.5, "war": 0.25, "samples": 8, "unreadable": 0}
    views = {"temporal": 2, "spatial": 1}
    metrics = {"protocol": "held-out", "split": "test", "views": views, "sources": {"image": scores, "video": scores}}
    export("hf-videomae", saved(metrics=metrics), tmp_path / "hf")
    assert list(json.loads((tmp_path / "hf/config.json").read_text())["s4d"]["metrics"]["sources"]) == ["video"]
    assert "| image |" not in (tmp_path / "hf/README.md").read_text()


def test_the_command(tmp_path: Path, saved: Saved, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = saved(), tmp_path / "hf"
    assert main(["checkpoint", "export", str(folder), "--to", "hf-videomae", "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "equal to the bit" in told["compared"] and "--check-with" in told["notes"][0]
    assert main(["checkpoint", "export", str(folder), "--to", "torch-export", "--out", str(tmp_path / "x.pt2")]) == 2
    assert "2 heads (image, video); choose with --head" in capsys.readouterr().err
    assert main(["checkpoint", "import", str(out), "--out", str(tmp_path / "again")]) == 0
    assert read_config(tmp_path / "again")["classes"] == {"video": ["sore", "glad", "calm", "cold"]}
    assert "note:" in capsys.readouterr().out
    assert main(["checkpoint", "export", str(folder), "--to", "hf-videomae", "--out", str(out)]) == 1
    assert "already exists" in capsys.readouterr().err


def test_a_pretrained_folder_of_transformers_comes_back_whole(tmp_path: Path) -> None:
    from s4d.models.build import build_pretrain
    from s4d.models.folder import write_folder

    arch = architecture(ModelConfig(size="tiny", depth=2, decoder_depth=1), experts=False)
    state = dict(build_pretrain(arch, seed=3).state_dict())
    write_folder(tmp_path / "ours", state, {"stage": "pretrain", "architecture": arch.to_dict(), "classes": {}})
    export("hf-videomae", tmp_path / "ours", tmp_path / "hf")
    import_hf_videomae(tmp_path / "hf", tmp_path / "again", Wishes())
    assert read_config(tmp_path / "again")["architecture"] == json.loads(json.dumps(arch.to_dict()))
    assert all(torch.equal(tensor, state[name]) for name, tensor in read_tensors(tmp_path / "again").items())
