"""A tiny real project on disk: stills, frame folders, manifests and run files, for launching `engine/train.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ("happy", "sad", "fear")
SIZE = 32


def _picture(generator: np.random.Generator, label: int) -> Image.Image:
    pixels = generator.integers(0, 120, (SIZE, SIZE, 3), dtype=np.uint8)
    pixels[8 * label : 8 * label + 8] += 100
    return Image.fromarray(pixels)


def write_media(root: Path, *, images: int = 12, clips: int = 8) -> None:
    """JPEG stills and folders of PNG frames with their manifests `stills.csv` and `clips.csv`."""
    generator = np.random.default_rng(0)
    rows: dict[str, list[str]] = {"stills": [], "clips": []}
    for number in range(images):
        label, split = number % len(CLASSES), "test" if number < 3 else "train"
        path = root / f"stills/{number:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        _picture(generator, label).save(path, quality=95)
        rows["stills"].append(f"stills/{number:03d}.jpg,{CLASSES[label]},{split},image")
    for number in range(clips):
        label, split = number % len(CLASSES), "test" if number < 3 else "train"
        folder = root / f"clips/{number:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        for frame in range(6):
            _picture(generator, label).save(folder / f"{frame:03d}.png")
        rows["clips"].append(f"clips/{number:03d},{CLASSES[label]},{split},frames")
    for name, lines in rows.items():
        (root / f"{name}.csv").write_text("path,label,split,kind\n" + "\n".join(lines) + "\n")


def run_values(root: Path, run_dir: Path, task: str = "finetune") -> dict[str, Any]:
    """One complete run over that media, in fp32, dropless, eight steps' worth of defaults left to overrides."""
    sources = [
        {"name": "stills", "modality": "image", "manifest": str(root / "stills.csv")},
        {"name": "clips", "modality": "video", "manifest": str(root / "clips.csv"), "stride": 1},
    ]
    return {
        "name": f"tiny-{task}",
        "run_dir": str(run_dir),
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
            "drop_path": 0.1 if task == "finetune" else 0.0,
            "moae": {"num_experts": 4, "top_k": 2},
        },
        "data": {"sources": sources, "workers": 0, "mask_ratio": {"image": 0.5, "video": 0.5}},
        "batch": {"per_step": {"stills": 4, "clips": 4}},
        "optim": {"lr": 1.0e-3, "max_grad_norm": 1.0, "ema": 0.9},
        "engine": {"zero_stage": 1, "precision": "fp32", "steps": 20, "log_every": 1, "save_every": 5},
    }


def write_run(root: Path, name: str, task: str = "finetune") -> Path:
    """Write `<name>.yaml` for a run in `<name>/`; JSON is YAML."""
    path = root / f"{name}.yaml"
    path.write_text(json.dumps(run_values(root, root / name, task), indent=1))
    return path
