"""The manual's way from raw media to a run, its very commands and configuration, on generated faces."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from s4d.data.manifest_io import read_manifest
from s4d.synth import synthesize

ROOT = Path(__file__).parents[3]
TINY = [
    "model.size=tiny",
    "model.embed_dim=32",
    "model.depth=2",
    "model.num_heads=1",
    "model.image_size=32",
    "batch.per_step.mine=8",
    "data.workers=1",
    "engine.steps=2",
    "engine.precision=fp32",
]


def documented() -> tuple[list[list[str]], str]:
    """Commands and configuration of the manual's section."""
    text = (ROOT / "docs/preparing-data.md").read_text(encoding="utf-8")
    section = text.partition("## From raw media to a run")[2].partition("\n##")[0]
    commands = [shlex.split(line)[1:] for line in re.findall(r"^    \.venv/bin/(s4d .*)$", section, re.MULTILINE)]
    match = re.search(r"```yaml\n(.*?)```", section, re.DOTALL)
    assert match is not None
    return commands, match[1]


def write_own_dataset(root: Path) -> None:
    """Generated pictures sorted into `<split>/<class>/` with the table of their points."""
    synthesize(root / "made", clips=1, images=42, identities=6, seed=1, size=112, pretrain_clips=1, workers=1)
    made = root / "made/affectnet"
    points = {row["sample"]: row for row in csv.DictReader((made / "faces.csv").open(encoding="utf-8"))}
    names = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger")
    table = []
    for split in ("train", "test"):
        for line in (made / f"{split}_affectnet7.txt").read_text().splitlines():
            path, label = line.rsplit(" ", 1)
            inside = f"{split}/{names[int(label)]}/{Path(path).name}"
            target = root / "data/mine" / inside
            target.parent.mkdir(parents=True, exist_ok=True)
            (made / path).rename(target)
            table.append({**points[path], "sample": inside})
    with (root / "data/mine/faces.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(table[0]))
        writer.writeheader()
        writer.writerows(table)


def test_the_section_is_there() -> None:
    commands, configuration = documented()
    assert [" ".join(command[:2]) for command in commands] == [
        "data prepare",
        "data scan",
        "data crop",
        "data validate",
        "data cache",
        "train --config",
        "evaluate runs/mine",
    ]
    assert "cache: /data/mine-cache" in configuration


@pytest.mark.deep
@pytest.mark.timeout(900)
@pytest.mark.launch
def test_from_raw_media_to_a_run(tmp_path: Path) -> None:
    write_own_dataset(tmp_path)
    commands, configuration = documented()
    (tmp_path / "mine.yaml").write_text(configuration.replace("/data/", f"{tmp_path}/data/"), encoding="utf-8")
    for command in commands:
        arguments = [part.replace("/data/", f"{tmp_path}/data/", 1) for part in command]
        if command[0] == "train":
            arguments += TINY
        code = "import sys; from s4d.cli import main; sys.exit(main())"
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
            timeout=120,
        )
        assert done.returncode == 0, (arguments, done.stdout[-2000:], done.stderr[-2000:])
    manifest = read_manifest(tmp_path / "data/mine-crops/manifest.parquet")
    assert len(manifest.rows) == 42 and manifest.crop.startswith("eyes-224-")
    assert (tmp_path / "reports/mine/index.html").is_file()
    newest = tmp_path / "runs/mine/checkpoints" / (tmp_path / "runs/mine/checkpoints/latest").read_text().strip()
    assert json.loads((newest / "config.json").read_text())["crop"] == {"mine": manifest.crop}
