"""Every command that works on data or runs, in a pipe 80 columns wide: nothing is longer, nothing steers a terminal."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TINY = (
    "model.embed_dim=32 model.depth=4 model.num_heads=1 model.decoder_embed_dim=32 model.decoder_depth=1 "
    "model.image_size=32 model.num_frames=4 data.workers=0 engine.precision=fp32 engine.zero_stage=0 "
    "engine.log_every=1 engine.steps=3 engine.save_every=2"
)
COMMANDS = f"""
data synth --out data --clips 21 --images 42 --identities 6
data prepare voxceleb2 data/voxceleb2 --out m/voxceleb2.csv
data prepare affectnet data/affectnet --out m/affectnet.csv
data prepare dfew data/dfew --fold 1 --out m/dfew.csv
data scan m/affectnet.csv --out m/scan.jsonl --workers 1
data validate m/affectnet.csv --scan m/scan.jsonl --out page --workers 1
data cache m/dfew.csv --out cache --short-side 32 --workers 0
data cache --verify cache
train --config pretrain.yaml {TINY} batch.per_step.affectnet=4 batch.per_step.voxceleb2=4
train --config finetune.yaml {TINY} batch.per_step.affectnet=4 batch.per_step.dfew=4
status runs/finetune
evaluate runs/finetune --out scores
extract runs/finetune --data m/affectnet.csv --out features --workers 0
predict data/dfew/Clip/jpg_256/00001 --frames --checkpoint runs/finetune --out answers
checkpoint inspect runs/finetune
checkpoint verify runs/finetune
checkpoint consolidate runs/finetune model
checkpoint export model --to safetensors --out model.safetensors
analyze compare runs/finetune runs/finetune
analyze routing runs/finetune
report runs
doctor
evaluate nope
train --config finetune.yaml modle.size=tiny
""".strip().splitlines()
# What their errors and notes say stays one line each, whatever its length; a log is searched line by line.
FAILING = COMMANDS[-2:]

pytestmark = [pytest.mark.deep, pytest.mark.launch]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict]]:
    """Status, stdout and stderr of every command, run one after the other in one project."""
    root = tmp_path_factory.mktemp("terminal")
    for task in ("pretrain", "finetune"):
        text = (ROOT / f"configs/{task}/demo.yaml").read_text(encoding="utf-8")
        text = text.replace("runs/demo/manifests", "m").replace(".parquet", ".csv").replace("runs/demo", "runs")
        (root / f"{task}.yaml").write_text(text, encoding="utf-8")
    environment = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb", "DS_ACCELERATOR": "cpu"}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    server = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "command_server.py")],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert server.stdin is not None and server.stdout is not None
    found: dict[str, dict] = {}
    with server:
        for line in COMMANDS:
            words = line.split()
            command = words if words[0] == "train" else ["s4d", *words]
            server.stdin.write(json.dumps({"cwd": str(root), "command": command}) + "\n")
            server.stdin.flush()
            found[line] = json.loads(server.stdout.readline())
        server.stdin.close()
    yield found


@pytest.mark.timeout(600)
@pytest.mark.parametrize("line", COMMANDS, ids=lambda line: " ".join(line.split()[:3]))
def test_output_fits(answers: dict[str, dict], line: str) -> None:
    answer = answers[line]
    assert (answer["status"] != 0) == (line in FAILING) or line == "doctor", answer
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", answer["out"] + answer["err"])
    long = [text for text in answer["out"].splitlines() if len(text) > 80 and len(text.split()) > 1]
    assert not long
    if line in FAILING:
        assert answer["out"] == "" and answer["err"].count("\n") == 1
    else:
        assert answer["out"]
