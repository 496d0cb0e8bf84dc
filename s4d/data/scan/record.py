"""What a look at one medium found: one line of a scan file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from s4d.data.manifest import Kind


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """One image, folder of frames or video, as it lies on disk; what was not looked at is None or empty.

    `path` is the manifest's. `size` is in bytes and `mtime_ns` the newest change, both over all files of a folder.
    `error` says why it cannot be used, in one line. `frames` were found by decoding (with `quick`: by listing),
    `header_frames` were announced. `width` and `height` are pixels, `fps` frames a second, `duration` seconds.
    `hashes` are perceptual hashes of frames spread over the clip, `cuts` the first frames of new shots, `luma` the mean
    brightness (0 to 255). `order_differs`: sorting the frame files as text gives another order than counting;
    `missing_numbers`: gaps in their numbering; `suffixes`: kinds of image file in the folder; `sizes`: number of
    different picture sizes among the frames.
    """

    path: str
    kind: Kind
    size: int
    mtime_ns: int
    quick: bool = False
    error: str | None = None
    frames: int | None = None
    header_frames: int | None = None
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    duration: float | None = None
    codec: str = ""
    variable_rate: bool = False
    warnings: int = 0
    sha256: str = ""
    hashes: tuple[str, ...] = ()
    cuts: tuple[int, ...] = ()
    luma: float | None = None
    black_frames: int = 0
    order_differs: bool = False
    missing_numbers: int = 0
    suffixes: tuple[str, ...] = ()
    sizes: int = 0

    def to_line(self) -> str:
        """One line of JSON, its newline included."""
        return json.dumps(asdict(self), separators=(",", ":"), allow_nan=False) + "\n"

    @classmethod
    def from_line(cls, line: str | bytes) -> Probe:
        """Read a line back; ValueError where it is not one of ours."""
        values: Any = json.loads(line)
        if not isinstance(values, dict) or set(values) != FIELDS:
            raise ValueError("not a line of a scan file, or one of another version")
        for name in LISTS:
            values[name] = tuple(values[name])
        return cls(**values)


FIELDS = {field.name for field in fields(Probe)}
LISTS = ("hashes", "cuts", "suffixes")
