"""What a user gets wrong, through the real commands: one line naming file and field, exit status, no leftovers."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from s4d.data.manifest_io import prepare_manifest
from s4d.models.folder import read_config, write_folder

ROOT = Path(__file__).resolve().parents[1]
SIZE = 32
LABELS = "dfew/EmoLabel_DataSplit/train(single-labeled)/train_set_1.csv"
LIST = "affectnet/train_affectnet7.txt"
CLIP = "voxceleb2/dev/mp4/id00001/video/00001.mp4"
STILL = "affectnet/Manually_Annotated_Images/0/train.jpg"
PRETRAINED = "runs/pretrain/checkpoints/step-00000002"
TUNED = "runs/finetune/checkpoints/step-00000002"

Change = Callable[[Path], object]


@dataclass(frozen=True, slots=True)
class Case:
    """A command in a copy of the project that `change` has damaged; the words must stand in its one line of error.

    `trained`: the copy holds both finished runs. `progress`: what was trained before the error stays.
    """

    command: str
    status: int
    words: tuple[str, ...]
    change: Change | None = None
    trained: bool = False
    progress: bool = False


def write(path: str, content: str | bytes) -> Change:
    def change(root: Path) -> None:
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def replace(path: str, old: str, new: str) -> Change:
    def change(root: Path) -> None:
        text = (root / path).read_text()
        assert old in text
        (root / path).write_text(text.replace(old, new, 1))

    return change


def cut(path: str, share: float = 0.5) -> Change:
    return lambda root: os.truncate(root / path, int((root / path).stat().st_size * share))


def remove(path: str) -> Change:
    return lambda root: shutil.rmtree(root / path) if (root / path).is_dir() else (root / path).unlink()


def every(pattern: str, change: Callable[[Path], object]) -> Change:
    return lambda root: [change(path) for path in sorted(root.glob(pattern))]


def flip(path: str) -> Change:
    def change(root: Path) -> None:
        content = bytearray((root / path).read_bytes())
        content[-3] ^= 1
        (root / path).write_bytes(content)

    return change


def scaled(factor: float) -> Change:
    """The pre-trained weights times a number, in a model folder."""

    def change(root: Path) -> None:
        tensors = load_file(root / PRETRAINED / "model.safetensors")
        scaled = {name: value * factor for name, value in tensors.items()}
        write_folder(root / "poisoned", scaled, read_config(root / PRETRAINED))

    return change


def harmful(root: Path) -> None:
    (root / "harmful.pth").write_bytes(pickle.dumps({"model": os.path.join}, protocol=2))


def foreign(root: Path) -> None:
    torch.save({"model": {"weight": torch.zeros(3)}}, root / "foreign.pth")


TRAIN, PRETRAIN = "train --config finetune.yaml", "train --config pretrain.yaml"
NEW = "run_dir=runs/new"
CASES: dict[str, Case] = {
    # configuration
    "key": Case(TRAIN, 2, ("finetune.yaml", "optm", "did you mean 'optim'"), replace("finetune.yaml", "optim", "optm")),
    "nested-key": Case(TRAIN, 2, ("model.moae.top_kk", "'top_k'"), replace("finetune.yaml", "top_k", "top_kk")),
    "item-key": Case(TRAIN, 2, ("data.sources.1.strid", "'stride'"), replace("finetune.yaml", "stride", "strid")),
    "override-key": Case(f"{TRAIN} engine.step=3", 2, ("command line: engine.step", "'steps'")),
    "override-index": Case(f"{TRAIN} data.sources.7.stride=1", 2, ("command line: data.sources.7", "0 to 1")),
    "override-form": Case(f"{TRAIN} engine.steps", 2, ("command line", "section.key=value")),
    "option": Case(f"{TRAIN} --fersh", 2, ("command line", "--fersh")),
    "text-for-number": Case(f"{TRAIN} engine.steps=many", 2, ("engine.steps", "whole number", "'many'")),
    "number-for-section": Case(f"{TRAIN} model=3", 2, ("model", "expected a section")),
    "literal": Case(f"{TRAIN} engine.precision=fp16", 2, ("engine.precision", "'bf16'")),
    "bound": Case(f"{TRAIN} model.tubelet_size=0", 2, ("model.tubelet_size", "greater than or equal to 1")),
    "range": Case(f"{TRAIN} data.image.crop_area=[0.9,0.1]", 2, ("data.image", "crop_area", "smaller value first")),
    "beta": Case(f"{TRAIN} optim.betas=[0.9,2]", 2, ("optim.betas.1", "less than 1")),
    "mask-ratio": Case(f"{PRETRAIN} data.mask_ratio.image=0.1", 2, ("data.mask_ratio.image", "0 of 4 tokens")),
    "no-file": Case("train --config absent.yaml", 2, ("absent.yaml", "no such file")),
    "no-mapping": Case("train --config x.yaml", 2, ("x.yaml", "expected a mapping"), write("x.yaml", "- 1\n")),
    "folder-for-file": Case("s4d config show affectnet", 2, ("affectnet", "Is a directory")),
    "image-for-file": Case("s4d config show stray.png", 2, ("stray.png",), write("stray.png", b"\x89PNG\xff")),
    "division": Case(f"{TRAIN} batch.accumulation=3", 2, ("batch.per_step.faces", "multiple of 3")),
    "ranks": Case("s4d config show finetune.yaml --ranks 3", 2, ("finetune.yaml", "batch.per_step.faces", "3 ranks")),
    "op": Case(f"{TRAIN} engine.backends.atention=sdpa", 2, ("engine.backends", "'atention'", "attention")),
    "backend": Case(f"{TRAIN} engine.backends.attention=flash", 2, ("engine.backends.attention", "'flash'", "sdpa")),
    "size": Case(f"{TRAIN} model.size=giant", 2, ("command line", "model.size", "'giant'")),
    "no-run-dir": Case(f"{TRAIN} run_dir=", 2, ("run_dir",)),
    "run-dir-is-file": Case(f"{TRAIN} run_dir=finetune.yaml", 1, ("run_dir", "finetune.yaml")),
    "run-dir-below-file": Case(f"{TRAIN} run_dir=finetune.yaml/x", 1, ("run_dir", "finetune.yaml/x")),
    "cli-command": Case("s4d trian", 2, ("'trian'", "'train'")),
    "cli-train": Case("s4d train --config finetune.yaml seeed=1", 2, ("command line: seeed", "'seed'")),
    # datasets
    "dataset": Case("s4d data prepare dfeww dfew --out n.csv", 2, ("'dfeww'", "did you mean dfew")),
    "no-dataset": Case("s4d data prepare dfew absent --out n.csv", 1, ("absent", "no such folder")),
    "other-dataset": Case("s4d data prepare affectnet dfew --out n.csv", 1, ("dfew", "nothing of AffectNet")),
    "no-media": Case("s4d data prepare dfew dfew --out n.csv", 1, ("dfew", "Clip/jpg_256"), remove("dfew/Clip")),
    "no-labels": Case(
        "s4d data prepare dfew dfew --out n.csv", 1, ("dfew", "label folder"), remove("dfew/EmoLabel_DataSplit")
    ),
    "fold": Case("s4d data prepare dfew dfew --out n.csv --fold 9", 2, ("--fold 9", "folds 1")),
    "column": Case(
        "s4d data prepare dfew dfew --out n.csv", 1, (LABELS, "'emotion'"), replace(LABELS, "label", "emotion")
    ),
    "label-class": Case(
        "s4d data prepare dfew dfew --out n.csv", 1, (LABELS, "line 2", "'glad'"), replace(LABELS, ",0", ",glad")
    ),
    "list-class": Case(
        "s4d data prepare affectnet affectnet --out n.csv", 1, (LIST, "'9'"), replace(LIST, "jpg 0", "jpg 9")
    ),
    "listed-not-there": Case("s4d data prepare affectnet affectnet --out n.csv", 1, (LIST, "train.jpg"), remove(STILL)),
    "prepare-zero-jpeg": Case(
        "s4d data prepare affectnet affectnet --out n.csv", 1, (STILL, "empty"), write(STILL, b"")
    ),
    "prepare-cut-mp4": Case("s4d data prepare voxceleb2 voxceleb2 --out n.csv", 1, (CLIP, "truncated"), cut(CLIP)),
    "prepare-zero-frame": Case(
        "s4d data prepare dfew dfew --out n.csv",
        1,
        ("00001/2.jpg", "empty"),
        write("dfew/Clip/jpg_256/00001/2.jpg", b""),
    ),
    "manifest-name": Case("s4d data prepare dfew dfew --out n.txt", 2, ("n.txt", ".parquet")),
    "manifest-place": Case(
        "s4d data prepare dfew dfew --out finetune.yaml/n.csv", 1, ("finetune.yaml/n.csv", "cannot write")
    ),
    # manifests
    "no-manifest": Case(TRAIN, 1, ("m/faces.csv", "no such manifest"), remove("m/faces.csv")),
    "manifest-column": Case(
        TRAIN, 1, ("m/faces.csv", "'lable'", "'label'"), replace("m/faces.csv", ",label", ",lable")
    ),
    "manifest-short-row": Case(
        TRAIN, 1, ("m/faces.csv", "line 6"), write("m/faces.csv", "path,label,split,kind\n\n\n\n\na\n")
    ),
    "manifest-parquet": Case(
        f"{TRAIN} data.sources.0.manifest=m/x.parquet", 1, ("m/x.parquet", "Parquet"), write("m/x.parquet", b"PAR")
    ),
    "manifest-class": Case(
        TRAIN, 1, ("m/faces.csv", "'glad'"), replace("m/faces.csv", "train,happiness", "train,glad")
    ),
    "manifest-root": Case(TRAIN, 1, ("m/faces.csv", "root", "affectnet"), remove("affectnet")),
    "manifest-kind": Case(f"{TRAIN} data.sources.0.modality=video", 1, ("m/faces.csv", "data.sources.0.modality")),
    "unlabelled": Case(f"{TRAIN} data.sources.1.manifest=m/talks.csv", 1, ("m/talks.csv", "classes")),
    "config-class": Case(f"{TRAIN} data.sources.0.classes=[fear,glad]", 2, ("classes", "'glad'", "m/faces.csv")),
    "missing-class": Case(
        f"{TRAIN} data.sources.0.classes=[fear,anger]", 1, ("m/faces.csv", "data.sources.0", "has label")
    ),
    "no-train-split": Case(f"{TRAIN} data.sources.0.train_split=x", 1, ("m/faces.csv", "data.sources.0.train_split")),
    "no-test-split": Case(f"{TRAIN} data.sources.0.test_split=x", 1, ("m/faces.csv", "data.sources.0.test_split")),
    "nothing-held-out": Case(f"{TRAIN} engine.eval_every=1", 2, ("engine.eval_every", "data.val_share")),
    # media at training time
    "zero-jpeg": Case(
        TRAIN, 1, (".jpg", "the file is empty"), every("affectnet/*/*/train.jpg", lambda p: p.write_bytes(b""))
    ),
    "cut-jpeg": Case(
        TRAIN, 1, (".jpg", "cannot decode"), every("affectnet/*/*/train.jpg", lambda p: cut(p.name)(p.parent))
    ),
    "zero-frame": Case(TRAIN, 1, ("dfew", ".jpg", "empty"), every("dfew/Clip/*/*/*.jpg", lambda p: p.write_bytes(b""))),
    "cut-mp4": Case(PRETRAIN, 1, ("voxceleb2", ".mp4"), every("voxceleb2/**/*.mp4", lambda p: cut(p.name)(p.parent))),
    "all-bad": Case(
        f"{TRAIN} data.on_error=skip",
        1,
        ("m/faces.csv", "in a row"),
        every("affectnet/*/*/train.jpg", lambda p: p.unlink()),
    ),
    # weights
    "init-nowhere": Case(f"{TRAIN} model.init_from=runs/absent", 1, ("runs/absent", "no such")),
    "init-size": Case(
        f"{TRAIN} {NEW} model.init_from=runs/pretrain model.embed_dim=64", 1, (PRETRAINED, "another size"), trained=True
    ),
    "init-depth": Case(
        f"{TRAIN} {NEW} model.init_from=runs/pretrain model.depth=1", 1, (PRETRAINED, "another size"), trained=True
    ),
    "init-cut": Case(
        f"{TRAIN} {NEW} model.init_from=runs/pretrain",
        1,
        (f"{PRETRAINED}/model.safetensors", "safetensors"),
        cut(f"{PRETRAINED}/model.safetensors"),
        trained=True,
    ),
    "init-bit": Case(
        f"{TRAIN} {NEW} model.init_from=runs/pretrain",
        1,
        (f"{PRETRAINED}/model.safetensors", "checksum"),
        flip(f"{PRETRAINED}/model.safetensors"),
        trained=True,
    ),
    "init-nan": Case(
        f"{TRAIN} {NEW} model.init_from=poisoned",
        1,
        ("poisoned/model.safetensors", "holds NaN or infinity"),
        scaled(float("nan")),
        trained=True,
    ),
    "init-pickle": Case(f"{TRAIN} model.init_from=harmful.pth", 1, ("harmful.pth", "model.safetensors"), harmful),
    "resume-size": Case(
        "train --config finetune.yaml model.embed_dim=64",
        3,
        (TUNED, "model.embed_dim: 32 -> 64"),
        trained=True,
    ),
    "resume-seed": Case("train --config finetune.yaml seed=5", 3, (TUNED, "seed: 0 -> 5"), trained=True),
    "resume-nowhere": Case(f"{TRAIN} --resume runs/absent", 1, ("--resume", "runs/absent")),
    "resume-damaged": Case(
        f"{TRAIN} {NEW} --resume {TUNED}",
        1,
        (f"{TUNED}/model.safetensors",),
        flip(f"{TUNED}/model.safetensors"),
        trained=True,
    ),
    "resume-backends": Case(
        TRAIN, 3, ("backends.json", "JSON object"), write("runs/finetune/backends.json", "[1]"), trained=True
    ),
    # other commands
    "evaluate-nowhere": Case("s4d evaluate runs/absent", 2, ("runs/absent/config.yaml", "no such file")),
    "evaluate-pretrain": Case("s4d evaluate runs/pretrain", 2, ("runs/pretrain", "no heads"), trained=True),
    "evaluate-damaged": Case(
        "s4d evaluate runs/finetune",
        1,
        (f"{TUNED}/model.safetensors",),
        flip(f"{TUNED}/model.safetensors"),
        trained=True,
    ),
    "evaluate-unsaved": Case(
        "s4d evaluate runs/finetune",
        1,
        ("runs/finetune", "checkpoints/latest"),
        remove("runs/finetune/checkpoints"),
        trained=True,
    ),
    "report-nowhere": Case("s4d report runs/absent", 2, ("runs/absent", "no such folder")),
    "report-no-run": Case("s4d report affectnet", 2, ("affectnet", "holds no run")),
    "report-metrics": Case(
        "s4d report runs/finetune",
        1,
        ("metrics.jsonl", "line 1"),
        write("runs/finetune/metrics.jsonl", "x\n{}\n"),
        trained=True,
    ),
    "report-pictures": Case(
        "s4d report runs/pretrain",
        1,
        ("reconstructions.npz", "npz"),
        write("runs/pretrain/reconstructions.npz", b""),
        trained=True,
    ),
    "report-scores": Case(
        "s4d report runs/finetune",
        1,
        ("evaluation.json", "sources"),
        write("runs/finetune/evaluation.json", '{"a": 1}'),
        trained=True,
    ),
    "golden-nowhere": Case("s4d golden absent.safetensors", 1, ("absent.safetensors",)),
    "golden-other": Case(
        f"s4d golden {TUNED}/model.safetensors", 1, ("model.safetensors", "not a golden file"), trained=True
    ),
    "import-pickle": Case("s4d checkpoint import harmful.pth --out y", 1, ("harmful.pth", "refused"), harmful),
    "import-other": Case("s4d checkpoint import foreign.pth --out y", 1, ("foreign.pth", "patch_embed"), foreign),
    "import-text": Case("s4d checkpoint import finetune.yaml --out y", 1, ("finetune.yaml", "refused")),
    "inspect-nowhere": Case("s4d checkpoint inspect runs/absent", 1, ("runs/absent", "no such")),
    "inspect-damaged": Case(
        "s4d checkpoint inspect runs/finetune",
        1,
        (f"{TUNED}/model.safetensors", "safetensors"),
        write(f"{TUNED}/model.safetensors", b"x"),
        trained=True,
    ),
}


def settings(task: str, sources: list[dict[str, Any]]) -> str:
    """One run in JSON, which is YAML: two steps of a model as small as can be."""
    values = {
        "name": task,
        "run_dir": f"runs/{task}",
        "task": task,
        "model": {
            "size": "tiny",
            "embed_dim": 32,
            "depth": 2,
            "num_heads": 1,
            "decoder_embed_dim": 32,
            "decoder_depth": 1,
            "decoder_num_heads": 1,
            "image_size": SIZE,
            "num_frames": 4,
            "moae": {"num_experts": 4, "top_k": 2},
        },
        "data": {"workers": 0, "sources": sources, "mask_ratio": {"image": 0.5, "video": 0.5}},
        "batch": {"per_step": {source["name"]: 4 for source in sources}},
        "optim": {"lr": 1e-3},
        "engine": {"zero_stage": 0, "precision": "fp32", "steps": 2, "log_every": 1, "save_every": 2},
        "evaluation": {"temporal_views": 1},
    }
    return json.dumps(values, indent=1)


def write_project(root: Path) -> None:
    """Stills, frame folders and clips in the layouts of three datasets, their manifests, and two runs."""
    generator = np.random.default_rng(0)

    def picture(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)).save(path)

    (root / LABELS).parent.mkdir(parents=True)
    (root / LABELS.replace("train", "test")).parent.mkdir()
    (root / "affectnet").mkdir()
    for offset, split in enumerate(("train", "test")):
        stills = [f"Manually_Annotated_Images/{label}/{split}.jpg" for label in range(7)]
        clips = [f"{offset * 7 + label + 1:05d}" for label in range(7)]
        for still, clip in zip(stills, clips, strict=True):
            picture(root / "affectnet" / still)
            for frame in range(1, 6):
                picture(root / f"dfew/Clip/jpg_256/{clip}/{frame}.jpg")
        lines = "".join(f"{still} {label}\n" for label, still in enumerate(stills))
        (root / LIST.replace("train", split)).write_text(lines)
        table = "".join(f"{clip},{label}\n" for label, clip in enumerate(clips))
        (root / LABELS.replace("train", split)).write_text("video_name,label\n" + table)
    for identity in (1, 2):
        path = root / CLIP.replace("id00001", f"id0000{identity}")
        path.parent.mkdir(parents=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=8, options={"threads": "1"})
            stream.width = stream.height = SIZE
            for _ in range(8):
                frame = av.VideoFrame.from_ndarray(generator.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8))
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    for name, dataset in (("faces", "affectnet"), ("clips", "dfew"), ("talks", "voxceleb2")):
        prepare_manifest(dataset, root / dataset, root / f"m/{name}.csv")
    stills = {"name": "faces", "modality": "image", "manifest": "m/faces.csv"}
    clips = {"name": "clips", "modality": "video", "manifest": "m/clips.csv", "stride": 1}
    talks = {"name": "talks", "modality": "video", "manifest": "m/talks.csv", "stride": 1}
    (root / "finetune.yaml").write_text(settings("finetune", [stills, clips]))
    (root / "pretrain.yaml").write_text(settings("pretrain", [stills, talks]))


def contents(root: Path) -> dict[str, bytes | None]:
    """Every path below `root` with its bytes, but for the file that says who had a run folder last."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes() if path.is_file() else None
        for path in root.rglob("*")
        if not path.name.startswith(".lease-")
    }


Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Projects:
    """The project as made, and as it is after both runs; `run` executes a command somewhere."""

    plain: Path
    trained: Path
    run: Callable[[Path, str], Answer]

    def copy(self, target: Path, *, trained: bool = False) -> Path:
        """A copy whose manifests point into it."""
        source = self.trained if trained else self.plain
        shutil.copytree(source, target)
        for manifest in (target / "m").iterdir():
            manifest.write_text(manifest.read_text().replace(str(self.plain), str(target)))
        return target


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Projects]:
    root = tmp_path_factory.mktemp("bad_input")
    write_project(root / "plain")
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    environment.pop("S4D_TRACEBACK", None)
    command = [sys.executable, str(ROOT / "tests" / "command_server.py")]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as server:
        assert server.stdin is not None and server.stdout is not None

        def run(cwd: Path, text: str) -> Answer:
            assert server.stdin is not None and server.stdout is not None
            server.stdin.write(json.dumps({"cwd": str(cwd), "command": text.split()}) + "\n")
            server.stdin.flush()
            answer: Answer = json.loads(server.stdout.readline())
            return answer

        shutil.copytree(root / "plain", root / "trained")
        for command_line in (PRETRAIN, TRAIN):
            answer = run(root / "trained", command_line)
            assert answer["status"] == 0, answer["err"]
        yield Projects(plain=root / "plain", trained=root / "trained", run=run)
        server.stdin.close()
        server.wait(30)


@pytest.mark.parametrize("name", CASES)
def test_one_line_and_nothing_left(projects: Projects, tmp_path: Path, name: str) -> None:
    case = CASES[name]
    root = projects.copy(tmp_path / "project", trained=case.trained)
    if case.change is not None:
        case.change(root)
    before = contents(root)
    answer = projects.run(root, case.command)
    # The miniature has no test part, which is said whatever comes next.
    lines = [line for line in answer["err"].splitlines() if not line.endswith("so no test split")]
    assert answer["status"] == case.status, answer
    assert len(lines) == 1 and re.match(r"(s4d: )?error: ", lines[0]), answer["err"]
    for word in case.words:
        assert word in lines[0]
    assert contents(root) == before


def test_skipped_media_are_named_and_counted(projects: Projects, tmp_path: Path) -> None:
    root = projects.copy(tmp_path / "project")
    bad = [root / f"affectnet/Manually_Annotated_Images/{label}/train.jpg" for label in range(6)]
    for path in bad:
        path.write_bytes(b"")
    answer = projects.run(root, f"{TRAIN} data.on_error=skip")
    assert answer["status"] == 0, answer
    named = {str(path) for path in bad if f"{path}: cannot decode: the file is empty" in answer["err"]}
    last = json.loads((root / "runs/finetune/metrics.jsonl").read_text().splitlines()[-1])
    assert named and last["data/skipped/image"] >= len(named) and last["data/skipped/video"] == 0


def test_prepare_leaves_damaged_media_out_when_told_to(projects: Projects, tmp_path: Path) -> None:
    root = projects.copy(tmp_path / "project")
    (root / STILL).write_bytes(b"")
    answer = projects.run(root, "s4d data prepare affectnet affectnet --out n.csv --on-error skip")
    assert answer["status"] == 0 and answer["err"] == f"left out: {STILL}: the file is empty\n"
    assert "13 samples" in answer["out"] and "1 media left out" in answer["out"]
    assert "0/train.jpg" not in (root / "n.csv").read_text()


def test_poisoned_weights_end_before_a_checkpoint(projects: Projects, tmp_path: Path) -> None:
    """Weights that are finite, and whose squares are not: nothing tells before the first step."""
    root = projects.copy(tmp_path / "project", trained=True)
    scaled(1e36)(root)
    answer = projects.run(root, f"{TRAIN} {NEW} model.init_from=poisoned")
    assert answer["status"] == 5 and "error: the last step was not finite" in answer["err"], answer
    assert "step 1: not finite: rank 0: " in answer["out"], answer
    assert not list((root / "runs/new").glob("checkpoints/step-*"))


def empty_in_test(root: Path) -> None:
    """Damage that only the second rank's part of the evaluation meets."""
    (root / "affectnet/Manually_Annotated_Images/6/test.jpg").write_bytes(b"")


LAUNCHED = {
    "launched-key": Case("engine.step=3", 2, ("command line: engine.step", "'steps'")),
    "launched-ranks": Case("batch.per_step.clips=3", 2, ("batch.per_step.clips", "2 ranks")),
    "launched-test-jpeg": Case("", 1, ("test.jpg", "empty"), empty_in_test, progress=True),
    "launched-jpeg": Case("", 1, ("empty",), every("affectnet/*/*/train.jpg", lambda p: p.write_bytes(b""))),
}


@pytest.mark.launch
@pytest.mark.parametrize("name", LAUNCHED)
def test_one_rank_of_two_tells_it(projects: Projects, tmp_path: Path, name: str) -> None:
    case = LAUNCHED[name]
    root = projects.copy(tmp_path / "project")
    if case.change is not None:
        case.change(root)
    before = contents(root)
    bin_dir = Path(sys.executable).parent
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [str(bin_dir / "deepspeed"), "--num_accelerators", "2", "--master_port", port]
    arguments = [str(ROOT / "engine/train.py"), "--config", "finetune.yaml", *case.command.split()]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    environment["PATH"] = f"{bin_dir}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        [*command, *arguments], cwd=root, env=environment, capture_output=True, text=True, timeout=120
    )
    told = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == case.status, done.stderr
    assert len(told) == 1 and all(word in told[0] for word in case.words), done.stderr
    assert "Traceback" not in done.stderr
    assert case.progress or contents(root) == before
