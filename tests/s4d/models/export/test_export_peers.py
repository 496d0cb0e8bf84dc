"""Exports run by the programs they are for: transformers and onnxruntime, in an environment and a process of their own.

transformers looks for a package that is called like our `kernels`, so it cannot be installed beside us. The environment
is made once and kept in the user's cache; S4D_PEERS_PYTHON names an interpreter to use instead.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from s4d.models.export.source import Wanted, open_source
from s4d.models.export.table import EXPORTERS

pytestmark = [pytest.mark.deep, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[4]
# Pillow, pydantic, PyYAML and typer are what our own command needs beside torch.
PACKAGES = (
    "torch",
    "safetensors",
    "numpy",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "pillow",
    "pydantic",
    "pyyaml",
    "typer",
)
TRANSFORMERS = "transformers==5.23.0"
Saved = Callable[..., Path]


@pytest.fixture(scope="session")
def peers() -> str:
    """An interpreter with transformers and onnxruntime."""
    if named := os.environ.get("S4D_PEERS_PYTHON"):
        return named
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "s4d-peers"
    python, whole = cache / "bin" / "python", cache / "whole"
    cache.parent.mkdir(parents=True, exist_ok=True)
    # Test processes ask at the same time, and an interrupted one leaves half of it: one makes it, its stamp comes last.
    with cache.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not whole.exists():
            install = [str(python), "-m", "pip", "install", "--quiet", *PACKAGES, TRANSFORMERS, "-c", "constraints.txt"]
            for command in ([sys.executable, "-m", "venv", "--clear", str(cache)], install):
                done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
                if done.returncode:
                    reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
                    pytest.skip(f"no environment with transformers and onnxruntime: {reason[:200]}")
            whole.touch()
    return str(python)


@pytest.mark.parametrize("stage", ["finetune", "pretrain"])
def test_transformers_gives_the_same_features(tmp_path: Path, saved: Saved, peers: str, stage: str) -> None:
    report = EXPORTERS["hf-videomae"](open_source(saved(stage)), tmp_path / "hf", Wanted(check_with=peers))
    assert "by transformers" in report.compared and 0 < report.largest_difference <= 1e-5


def test_transformers_with_lost_biases_is_noticed(
    tmp_path: Path, saved: Saved, peers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from s4d.errors import DataError
    from s4d.models.export import hf_videomae

    whole = hf_videomae.to_transformers

    def without_biases(*arguments: object) -> dict[str, object]:
        return {name: t for name, t in whole(*arguments).items() if "query.bias" not in name}  # type: ignore[arg-type]

    monkeypatch.setattr(hf_videomae, "to_transformers", without_biases)
    monkeypatch.setattr(hf_videomae, "refuse_unless_equal", lambda *arguments: None)
    with pytest.raises(DataError, match="missing_keys"):
        EXPORTERS["hf-videomae"](open_source(saved()), tmp_path / "hf", Wanted(check_with=peers))
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize("experts", [None, {}, {"capacity_factor": 0.5}], ids=["plain", "experts", "capacity"])
def test_onnxruntime_gives_the_same_logits(
    tmp_path: Path, saved: Saved, peers: str, experts: dict[str, object] | None
) -> None:
    folder, out = saved(experts=experts), tmp_path / "model.onnx"
    code = "import sys; from s4d.cli import main; sys.exit(main())"
    command = [peers, "-c", code, "checkpoint", "export", str(folder), "--to", "onnx", "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--head", "video", "--json"], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["compared"] == "logits of video for 2 inputs of 1 x 4 x 32 x 32 x 3 uint8"
    assert told["largest_difference"] <= 1e-4 and out.stat().st_size > 100_000
