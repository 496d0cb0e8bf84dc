"""Damaged checkpoints, manifests and model folders: refused in one line, or the very tensors that were saved.

Each case goes through all that reads them: verifying, resuming, initial weights of a new model, and the commands.
"""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from audit import watched
from fuzz_case import strange_letters
from fuzz_checkpoint_damage import damage

sys.path.append(str(Path(__file__).resolve().parents[1] / "checkpoints"))

from small_run import SmallRun

from engine.checkpoint_files import verify_checkpoint, write_checkpoint
from engine.errors import EngineError
from s4d.cli import checkpoint
from s4d.config import ModelConfig
from s4d.errors import UserError
from s4d.models.build import build_pretrain
from s4d.models.folder import read_architecture, write_folder
from s4d.models.sizes import architecture
from s4d.models.weights import load_initial

STEPS = (1, 2)
HELD: dict[str, Any] = {}


def prepare(folder: Path) -> None:
    """A run, a run whose weights start other models, and an imported model; each read once, to import what it needs."""
    torch.set_num_threads(1)
    "\x1b".encode("unicode_escape")  # imports its codec
    # Cases of a process that was ended may lie there.
    for old in [*folder.glob("case-*"), *(folder / name for name in ("run", "model", "imported", "outside"))]:
        shutil.rmtree(old, ignore_errors=True)
    small = SmallRun(folder / "run", width=8)
    HELD["sums"] = {}
    for step in STEPS:
        small.advance()
        small.save()
        small.checkpoints.wait()
        HELD["sums"][step] = small.sums()
    dims = {"embed_dim": 24, "depth": 1, "num_heads": 1, "decoder_embed_dim": 24, "decoder_depth": 1}
    arch = architecture(
        ModelConfig(size="tiny", decoder_num_heads=1, image_size=32, num_frames=2, **dims), experts=False
    )
    HELD["arch"] = arch
    config = {"stage": "pretrain", "architecture": arch.to_dict(), "classes": {}}
    weights = {step: build_pretrain(arch, seed=step).state_dict() for step in STEPS}
    HELD["weights"] = weights
    for step in STEPS:
        records = {"state.json": {"step": step, "counters": {}}, "config.json": config}
        write_checkpoint(folder / f"model/checkpoints/step-{step:08d}", {"model.safetensors": weights[step]}, records)
    (folder / "model/checkpoints/latest").write_text(f"step-{STEPS[-1]:08d}\n")
    write_folder(folder / "imported/checkpoints/step-00000002", weights[2], config)
    shutil.copy(folder / "model/checkpoints/latest", folder / "imported/checkpoints/latest")
    (folder / "outside").mkdir()
    (folder / "outside/other.json").write_text("{}")
    for tree in ("run", "model", "imported"):
        for look in LOOKS[tree]:
            assert look(folder / tree).startswith("read"), (tree, look)


def run(number: int, folder: Path) -> str:
    """Case `number`: damage a copy of one of the trees, read it in all ways."""
    draw = np.random.default_rng([27, number])
    tree = ("run", "model", "imported")[number % 3]
    root = folder / f"case-{number}"
    outside = folder / "outside"
    shutil.copytree(folder / tree, root)
    try:
        damage(root, root / "checkpoints/step-00000002", draw, outside)
        with watched(folder):
            return _joined([look(root) for look in LOOKS[tree]])
    finally:
        shutil.rmtree(root)


def _joined(outcomes: list[str]) -> str:
    return next((word for word in ("refused", "fell back", "not checked") if word in outcomes), "read")


def _guarded(root: Path, action: Callable[[], str]) -> str:
    """`refused` for an error of the program's own classes in one line that names something below `root`."""
    try:
        return action()
    except (UserError, EngineError) as error:
        text = str(error)
        assert not strange_letters(text), f"control characters: {text!r}"
        assert root.name in text, f"names no file: {text!r}"
        assert len(text) < 4000, f"{len(text)} letters: {text[:200]!r}"
        return "refused"


def _verify(root: Path) -> str:
    """A checkpoint that passes holds what was saved, byte for byte, whatever became of its signed descriptions."""
    newest = root / "checkpoints/step-00000002"

    def action() -> str:
        manifest = verify_checkpoint(newest)
        for name, known in manifest["files"].items():
            whole = _original(root) / "checkpoints/step-00000002" / name
            if "tensors" in known:
                assert (newest / name).read_bytes()[-8:] == whole.read_bytes()[-8:]
        return "read"

    return _guarded(root, action)


def _original(root: Path) -> Path:
    tree = ("run", "model", "imported")[int(root.name.partition("-")[2]) % 3] if "-" in root.name else root.name
    return root.parent / tree


def _resume(root: Path) -> str:
    """The state of the newest step, or of the one before with a warning, or an error."""
    live = SmallRun(root, width=8)
    said = io.StringIO()

    def action() -> str:
        with redirect_stdout(said):
            step = live.load()
        assert live.sums() == HELD["sums"][step], f"other tensors than those of step {step}"
        assert step == STEPS[-1] or "warning" in said.getvalue(), "fell back without a word"
        return "read" if step == STEPS[-1] else "fell back"

    outcome = _guarded(root, action)
    assert not strange_letters(said.getvalue().replace("\n", "")), f"control characters: {said.getvalue()!r}"
    return outcome


def _initial(root: Path) -> str:
    """Weights for a new model: those of a step that was saved, all of them."""

    def action() -> str:
        model = build_pretrain(HELD["arch"], seed=99)
        load_initial(model, root)
        found = model.state_dict()
        same = [all(torch.equal(found[name], value) for name, value in HELD["weights"][s].items()) for s in STEPS]
        if _original(root).name == "imported" and not (root / "checkpoints/step-00000002/manifest.json").exists():
            # Weights from elsewhere may come without checksums, with which a warning comes and nothing is promised.
            return "not checked"
        assert any(same), "other tensors than those saved"
        return "read"

    return _guarded(root, action)


def _describe(root: Path) -> str:
    newest = root / "checkpoints/step-00000002"

    def action() -> str:
        assert read_architecture(newest) == HELD["arch"] or _is_signed(root)
        return "read"

    return _guarded(root, action)


def _is_signed(root: Path) -> bool:
    """Whether the description was changed together with its checksums, which is not damage."""
    return (root / "checkpoints/step-00000002/config.json").read_bytes() != (
        _original(root) / "checkpoints/step-00000002/config.json"
    ).read_bytes()


def _inspect(root: Path) -> str:
    return _command(root, checkpoint.inspect)


def _verify_command(root: Path) -> str:
    return _command(root, checkpoint.verify)


def _command(root: Path, function: Callable[[Path], None]) -> str:
    """Nothing in what a command prints is obeyed by a terminal."""
    out = io.StringIO()

    def action() -> str:
        function(root)
        return "read"

    with redirect_stdout(out):
        outcome = _guarded(root, action)
    assert not strange_letters(out.getvalue().replace("\n", "")), f"control characters: {out.getvalue()!r}"
    return outcome


LOOKS: dict[str, tuple[Callable[[Path], str], ...]] = {
    "run": (_verify, _resume, _inspect, _verify_command),
    "model": (_verify, _initial, _describe, _inspect, _verify_command),
    "imported": (_verify, _initial, _describe, _inspect, _verify_command),
}
