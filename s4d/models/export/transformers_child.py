"""Run by an interpreter that has transformers and not our packages: features of pixels by a folder.

    python -I transformers_child.py FOLDER PLACE

Reads `pixel_values` (n, F, 3, S, S) from PLACE/in.safetensors, writes `features` (n, T, D) to PLACE/out.safetensors.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file


def main() -> None:
    """Serve one request; a tensor that transformers would leave as it was initialised is an error."""
    folder, place = Path(sys.argv[1]), Path(sys.argv[2])
    config = transformers.VideoMAEConfig.from_pretrained(folder)
    kind = getattr(transformers, config.architectures[0])
    model, account = kind.from_pretrained(folder, output_loading_info=True)
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if account[problem]:
            sys.exit(f"{problem}: {sorted(map(str, account[problem]))[:3]}")
    encoder = model.eval().base_model
    with torch.inference_mode():
        features = encoder(load_file(place / "in.safetensors")["pixel_values"]).last_hidden_state
    save_file({"features": features.contiguous()}, place / "out.safetensors")


if __name__ == "__main__":
    main()
