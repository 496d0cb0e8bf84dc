"""`make demo` as the Makefile has it, on few faces and with two steps a training."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINKED = ("engine", "s4d", "kernels")
# The environment exists, and must not be brought up to date from the copy.
UP_TO_DATE = ("env", ".venv/.project-installed", ".venv/.packages-installed")
SMALL = (
    (r"steps: \d+", "steps: 2"),
    (r"save_every: \d+", "save_every: 1"),
    (r"precision: bf16", "precision: fp32"),
    (r"image_size: \d+", "image_size: 32"),
    (r"num_frames: \d+", "num_frames: 4"),
    (r"embed_dim: 128", "embed_dim: 32"),
    (r"decoder_embed_dim: 64", "decoder_embed_dim: 32"),
    (r"depth: \d+", "depth: 2"),
    (r"num_heads: \d+", "num_heads: 1"),
    (r"per_step: .*", "per_step: {affectnet: 4, SECOND: 8}"),
)


@pytest.mark.deep
@pytest.mark.launch
@pytest.mark.timeout(600)
def test_the_demonstration(tmp_path: Path) -> None:
    for name in LINKED:
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    for task, second in (("pretrain", "voxceleb2"), ("finetune", "dfew")):
        text = (ROOT / f"configs/{task}/demo.yaml").read_text(encoding="utf-8")
        for given, small in SMALL:
            text, count = re.subn(given, small.replace("SECOND", second), text)
            assert count, given
        (tmp_path / "configs" / task).mkdir(parents=True)
        (tmp_path / "configs" / task / "demo.yaml").write_text(text, encoding="utf-8")
    assumed = [word for name in UP_TO_DATE for word in ("-o", name)]
    command = ["make", *assumed, "demo", "DEMO_DATA=--clips 35 --images 35 --identities 5 --seed 0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "demo: open runs/demo/report/index.html" in done.stdout
    report = tmp_path / "runs/demo/report"
    assert "data:image/" in (report / "index.html").read_text(encoding="utf-8")
    assert json.loads((report / "report.json").read_text(encoding="utf-8"))
    again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert again.returncode == 0 and "training" not in again.stdout, "what is done is not done again"
