"""One row per sample: the neutral table every dataset is prepared into, and the only thing training reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["image", "frames", "video"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ManifestRow:
    """One image, folder of frames or video file, with what is known about it.

    `path` is relative to the manifest's `root`; `label` is a class name, never a number; `frame_count` and `fps` are
    None when unknown; `face_box` is (left, top, right, bottom) in pixels.
    """

    sample_id: str
    path: str
    kind: Kind
    dataset: str
    split: str
    label: str | None = None
    fold: int | None = None
    identity: str | None = None
    frame_count: int | None = None
    fps: float | None = None
    face_box: tuple[int, int, int, int] | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("image", "frames", "video"):
            raise ValueError(f"kind must be image, frames or video, got {self.kind!r}")
        if not self.sample_id or not self.path:
            raise ValueError(f"sample_id and path must not be empty, got {self.sample_id!r} and {self.path!r}")
