"""One row per sample: the neutral table every dataset is prepared into, and the only thing training reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["image", "frames", "video"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ManifestRow:
    """One image, folder of frames or video file, with what is known about it.

    `path` is relative to the manifest's `root`; `label` is a class name, never a number; `frame_count` and `fps` are
    None when unknown; `face_box` is (left, top, right, bottom) in pixels; `face_points` are x and y of two eyes, or of
    eyes, nose and mouth corners (10 numbers); `distribution` gives each class its share of the annotators' votes, or of
    the time where a clip was annotated in parts.
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
    face_points: tuple[float, ...] | None = None
    distribution: tuple[tuple[str, float], ...] | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("image", "frames", "video"):
            raise ValueError(f"kind must be image, frames or video, got {self.kind!r}")
        if not self.sample_id or not self.path:
            raise ValueError(f"sample_id and path must not be empty, got {self.sample_id!r} and {self.path!r}")
        if self.face_points is not None and len(self.face_points) not in (4, 10):
            raise ValueError(f"face_points must hold x and y of 2 or 5 points, got {len(self.face_points)} numbers")
        if self.distribution is not None and any(share < 0 for _, share in self.distribution):
            raise ValueError(f"distribution: a share is below 0 in {dict(self.distribution)}")
        if self.distribution is not None and not 0.999 < sum(share for _, share in self.distribution) < 1.001:
            raise ValueError(f"distribution: shares must add up to 1, got {dict(self.distribution)}")
