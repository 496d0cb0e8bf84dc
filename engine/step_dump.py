"""What is kept of a step that was not finite, so that one process can compute it again: tensors and JSON, no pickle.

`step-00000017-rank1/` holds weights.safetensors (as the model computes with them), batch-<n>.safetensors for each micro
batch, config.yaml and step.json (numbers of the step, what was found, the task and the rest of the batches).
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.checkpoint_files import ASIDE, flush
from engine.errors import DumpError
from engine.protocols import Batch

FORMAT = 1
STEP, WEIGHTS, CONFIG = "step.json", "weights.safetensors", "config.yaml"
# A run that meets bad steps again and again must not fill the disk with them.
MOST_DUMPS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Dump:
    """One rank's part of a step as it was read back; `batches` are pairs of tensors and record, see `Batch.store`."""

    record: Mapping[str, Any]
    config: Path
    weights: dict[str, Tensor]
    batches: list[tuple[dict[str, Tensor], Any]]


def has_room(folder: Path, name: str) -> bool:
    """Whether another dump may be written to `folder`."""
    return not (folder / name).exists() and len(list(folder.glob("step-*"))) < MOST_DUMPS


def write_dump(
    target: Path,
    record: Mapping[str, Any],
    *,
    weights: Mapping[str, Tensor],
    batches: Sequence[Batch],
    save_config: Callable[[Path], None],
) -> None:
    """Write a dump aside and rename it to `target`; OSError as the disk refuses."""
    for stale in target.parent.glob(f"{ASIDE}*"):
        shutil.rmtree(stale)
    aside = target.with_name(f"{ASIDE}{target.name}-{secrets.token_hex(4)}")
    aside.mkdir(parents=True)
    try:
        save_file({name: tensor.cpu().contiguous() for name, tensor in weights.items()}, aside / WEIGHTS)
        rest = []
        for index, batch in enumerate(batches):
            tensors, remainder = batch.store()
            own = {name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}
            save_file(own, aside / f"batch-{index}.safetensors")
            rest.append(remainder)
        save_config(aside / CONFIG)
        (aside / STEP).write_text(json.dumps({"format": FORMAT, **record, "batches": rest}, indent=1) + "\n")
        for file in aside.iterdir():
            flush(file)
        flush(aside)
        aside.rename(target)
        flush(target.parent)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def read_dump(folder: Path) -> Dump:
    """Read a dump; DumpError names the file and what is wrong with it."""
    try:
        record = json.loads((folder / STEP).read_bytes())
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise DumpError(f"{folder / STEP}: not the record of a step in format {FORMAT}")
        batches = [
            (load_file(folder / f"batch-{index}.safetensors"), rest) for index, rest in enumerate(record["batches"])
        ]
        return Dump(record=record, config=folder / CONFIG, weights=load_file(folder / WEIGHTS), batches=batches)
    except OSError as error:
        raise DumpError(f"{error.filename or folder}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DumpError(f"{folder}: not a readable dump of a step: {error}") from error
