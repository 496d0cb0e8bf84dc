"""Times the commands of docs/own-data.md as they stand there, on generated clips in class folders.

    .venv/bin/python tests/docs/newcomer.py [--clips 140] [--folder FOLDER] [--json FILE]

Writes newcomer.json of the device below benchmarks/results: for each command seconds of the clock and of the processor,
scores, and the share of chance. Every person shows every class, and nothing tells prepare who is seen.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import torch
from page_blocks import ROOT, Block, blocks
from page_world import write_clips

from kernels.bench.machine import device_slug, machine_facts, source_commit
from s4d.atomic_files import write_atomically
from s4d.json_text import to_json

PAGE = "docs/own-data.md"
SIZE = 112


def documented() -> list[str]:
    """The three commands, and the one that asks the model."""
    found: list[Block] = [block for block in blocks() if block.page == PAGE and block.kind == "commands"]
    return [command.text for block in found[:2] for command in block.commands()]


def timed(command: str, folder: Path) -> dict[str, object]:
    """Run one command; seconds of the clock and of the processor, and the last line that it printed."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command.split(), cwd=folder, capture_output=True, text=True)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    sys.stdout.write(f"$ {command}\n{done.stderr}{done.stdout}\n")
    if done.returncode:
        raise SystemExit(f"{command}: ended with status {done.returncode}")
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"command": command, "seconds": seconds, "processor_seconds": processor}


def try_out(folder: Path, clips: int) -> dict[str, object]:
    """Generate the clips, run the commands in `folder`, and say how it went."""
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / "configs").symlink_to(ROOT / "configs")
    write_clips(folder / "clips", clips, size=SIZE)
    os.rename(next((folder / "clips").rglob("*.mp4")), folder / "new.mp4")
    commands = [timed(command, folder) for command in documented()]
    evaluation = json.loads((folder / "runs/mine/evaluation.json").read_text(encoding="utf-8"))
    ((name, scores),) = evaluation["sources"].items()
    return {
        "clips": clips - 1,
        "pixels": SIZE,
        "commands": commands,
        "seconds": sum(float(str(each["seconds"])) for each in commands),
        "scores": {"source": name, "samples": scores["samples"], "uar": scores["uar"], "war": scores["war"]},
        "chance": 1 / len(scores["classes"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=140)
    parser.add_argument("--folder", type=Path, help="empty folder to work in and to keep; a temporary one if left out")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    document = {
        "schema": 1,
        "kind": "measurement",
        "what": "newcomer",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": source_commit(),
        "machine": machine_facts(device),
    }
    with tempfile.TemporaryDirectory() as aside:
        folder = options.folder or Path(aside)
        folder.mkdir(parents=True, exist_ok=True)
        document |= try_out(folder, options.clips)
    target = options.json or ROOT / "benchmarks/results" / device_slug(device) / "newcomer.json"
    write_atomically(target, to_json(document))
    sys.stdout.write(f"wrote {target}\n")


if __name__ == "__main__":
    main()
