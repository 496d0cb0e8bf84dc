"""What a cache keeps of each medium: which frames, how small, in what order of frame files."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass

from s4d.errors import UsageError

VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheRecipe:
    """Frames are scaled down until the short side has `short_side` pixels, never up.

    `frames` is `all`, or `FxS` for views of F frames at stride S: a clip long enough for such a window keeps every S-th
    frame, and a view that starts between two of them gets the earlier one. `order` sorts frame files in a folder.
    """

    short_side: int = 192
    frames: str = "all"
    order: str = "natural"

    def __post_init__(self) -> None:
        if self.short_side < 1:
            raise UsageError(f"short side: expected at least 1 pixel, got {self.short_side}")
        if self.frames != "all" and not re.fullmatch(r"[1-9]\d*x[1-9]\d*", self.frames):
            raise UsageError(f"frames: expected all, or frames x stride such as 16x4, got {self.frames!r}")
        if self.order not in ("natural", "lexicographic"):
            raise UsageError(f"order: expected natural or lexicographic, got {self.order!r}")

    @property
    def window(self) -> tuple[int, int] | None:
        """Frames and stride of the views that thinned clips are meant for; None: every frame is there."""
        if self.frames == "all":
            return None
        count, stride = self.frames.split("x")
        return int(count), int(stride)

    def step(self, frame_count: int) -> int:
        """Frames of a clip from one kept frame to the next."""
        if self.window is None:
            return 1
        count, stride = self.window
        return stride if frame_count > (count - 1) * stride else 1

    def stored_size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the stored frame of a decoded one."""
        short = min(width, height)
        if short <= self.short_side:
            return width, height
        return max(1, round(width * self.short_side / short)), max(1, round(height * self.short_side / short))


def cache_id(fingerprint: str, recipe: CacheRecipe) -> str:
    """SHA-256 of what a cache is made from: the manifest's content and the recipe."""
    text = json.dumps({"version": VERSION, "manifest": fingerprint, **asdict(recipe)}, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
