"""Every miniature dataset."""

from __future__ import annotations

from trees_static import STATIC_TREES
from trees_video import VIDEO_TREES

TREES = (*VIDEO_TREES, *STATIC_TREES)
