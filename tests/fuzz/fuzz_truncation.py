"""Media that end too early, as after an interrupted copy: the scan of a dataset must find them without a checksum."""

from __future__ import annotations

from pathlib import Path

import fuzz_files
import numpy as np

from s4d.data.scan.probe import probe_medium


def prepare(folder: Path) -> None:
    """Whole files, which the scan must find nothing wrong with."""
    fuzz_files.write_whole(folder)
    for name, kind, _ in fuzz_files.whole(folder):
        found = probe_medium(folder, name, kind, quick=False)  # type: ignore[arg-type]
        assert found.error is None, found.error


def run(number: int, folder: Path) -> str:
    """Case `number`: a file cut anywhere."""
    draw = np.random.default_rng([24, number])
    files = [file for file in fuzz_files.whole(folder) if not file[0].endswith(fuzz_files.STREAMS)]
    name, kind, content = files[number % len(files)]
    size = int(draw.integers(1, len(content)))
    path = folder / f"case-{number}-{name}"
    path.write_bytes(content[:size])
    try:
        found = probe_medium(folder, path.name, kind, quick=False)  # type: ignore[arg-type]
    finally:
        path.unlink()
    assert found.error is not None, f"{name} cut to {size} of {len(content)} bytes passes"
    assert str(path) in found.error, found.error
    return "found"
